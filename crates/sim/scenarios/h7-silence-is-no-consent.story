# H7. Settlement: *not done* is final, unreachable is not agreement, settling ends the session.
#
# peer2 has everything, and sends the result to the others. It is there at peer0; peer1 is cut off before. The master
# dies. A new one hears peer1 alone, leaves the others behind, and peer1 does its op once more without them. peer0 and
# peer2 find no master and settle: both say *done*, peer1 cannot be asked. If its silence counted as agreement, there
# would be two results of one op.
peers 3
master_timeout 1000
without SilenceIsNoConsent
when master0 -> peer0: [term 1] committed
when peer2 begins round 1000006
cut peer2 peer1
cut peer0 peer1
when peer0 -> master0: done
crash master0
start master 1
cut master1 peer0
cut master1 peer2
wait 4000
heal
