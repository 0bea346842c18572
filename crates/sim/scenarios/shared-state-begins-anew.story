# What a group has agreed on is forgotten with its last member.
#
# peer0 and peer1 have synchronized. peer2 registers, loses the master for a while, attaches again, and hears on that way
# of the revision that they have. Then they die, and peer2 is the group: its revisions begin anew, and the first one must
# not be taken for one that is long over.
peers 2
syncs 30
master_timeout 2000
seed 1
when peer0: synchronized in round
when peer0: synchronized in round
start peer 2
when peer2: attached to the master
freeze master0
wait 700
thaw master0
when peer2 -> master0: attach
crash peer0
crash peer1
when peer2: synchronized
heal
