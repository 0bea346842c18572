# H2. A peer reports only to the master of the highest term, and closes its connection to an older one first.
#
# The master stands still, all peers find the one of term 2, and that dies. The first one wakes up. If the peers went back
# to it, they would tell their promises to a master that does not know what the other one may have decided.
peers 3
without HighestTerm
when master0 -> peer0: [term 1] committed
freeze master0
when peer1: the master cannot be reached
start master 1
when master1 -> peer1: [term 2] attached
wait 1
crash master1
thaw master0
wait 3000
heal
