# H5. An attempt stays open until all have acknowledged its verdict; promises and heard verdicts are repeated on every
# attach.
#
# The master says committed; peer0 hears it, peer1 does not, and the master dies. peer2 dies, too. The next master must
# hear from peer0 that the op is committed, or it would have peer1 do it again, alone with a peer0 that has gone on.
peers 3
without RepeatPromises
when master0 -> peer0: [term 1] committed
when master0 -> peer0: [term 1] committed
cut master0 peer1
cut master0 peer2
wait 1
crash peer2
crash master0
when peer1: the master cannot be reached
mend master0 peer1
start master 1
wait 3000
heal
