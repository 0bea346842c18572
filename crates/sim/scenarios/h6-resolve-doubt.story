# H6. A write compares the epoch that it replaces, and one whose outcome is unknown is resolved by reading.
#
# peer2 dies. The store takes the new epoch and does not say so in time. A master that takes this for "no change" writes
# once more, is refused for ever, and answers for an epoch that is over.
peers 3
without ResolveDoubt
when master0 -> peer0: [term 1] committed
store late 200
crash peer2
wait 1000
store on
wait 2000
heal
