# H1. A master judges only members that attached to it in its own term.
#
# All three promise an op. The master says committed, peer0 hears it, and the others are cut off from it. Another master
# takes the next term. peer1 finds it, peer2 dies. The new master must not decide for peer0, of which it knows nothing:
# peer0 has returned success already. It waits for peer0, or leaves it behind.
peers 3
without JudgeTheAttached
when master0 -> peer0: [term 1] committed
when master0 -> peer0: [term 1] committed
cut master0 peer1
cut master0 peer2
when peer1: the master cannot be reached
start master 1
when peer1 -> master1: attach
crash peer2
cut master1 peer0
wait 2000
heal
