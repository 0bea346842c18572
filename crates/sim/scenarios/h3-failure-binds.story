# H3. *Failed* binds members that have not started the attempt.
#
# Callers recover themselves, so every cut attempt fails. peer1 has called its op, peer0 has not when peer2 dies. peer1
# hears *failed* and calls the next op by the same tag. When peer0 now makes the call that peer1 has seen fail, it must
# fail at once: as attempt 0 of the new epoch it would be added to another op of peer1.
peers 3
caller recovers
without FailureBinds
wait 400
when master0 -> peer0: [term 1] committed
when peer1 begins round
freeze peer0
crash peer2
wait 100
thaw peer0
wait 2000
heal
