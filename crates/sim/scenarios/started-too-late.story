# Whoever has reported at the end of an epoch starts nothing before it knows whether that epoch has ended.
#
# peer2 calls the next op first, sends its contribution, and dies. The master has everybody's report, writes the next
# epoch, and dies before it tells. The others call the op, in place and without backups. The next master says first of all
# that their epoch does not go on: an attempt of it would be in no verdict, and what peer2's contribution has overwritten
# could not be put back.
peers 4
no backups
without WaitForTheNext
seed 7
when peer2 begins round 1000006
wait 1
crash peer2
when store: request
crash master0
wait 500
start master 1
wait 2000
heal
