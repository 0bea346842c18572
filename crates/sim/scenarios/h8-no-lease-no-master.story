# H8. A master without a lease says so, and counts as none.
#
# The store does not answer any more, and peer2 dies. The master cannot begin the epoch without it. It says that it has
# no lease; the peers wait for master_timeout, and settle. If it kept silent they would wait for it as long as it lives.
peers 3
lease 600
master_timeout 2000
without SayWithoutLease
when master0 -> peer0: [term 1] committed
store off
wait 1000
crash peer2
when peer0: no master could be reached for master_timeout
when peer1: no master could be reached for master_timeout
end
