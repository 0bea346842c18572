# H4. The store keeps every verdict that a member which stays has not acknowledged.
#
# The run that this rule forbids cannot be shown here: it needs two epoch changes before a member hears of the first, and
# a change is decided only with the report of every member that stays, which counts only if it is of the epoch that
# ends. So a member has heard of every change but the newest before there is another. This is the nearest run: peer1
# does not hear of epoch 2, the master dies, and its successor tells it from the store. peer3 dies as well, and that
# change waits until peer1 has acknowledged the one before.
peers 4
when master0 -> peer0: [term 1] committed
when peer0 -> master0: done
crash peer2
when master0 -> peer1: [term 1] epoch
when master0 -> peer0: [term 1] epoch 3 with
cut master0 peer1
crash peer3
wait 50
crash master0
start master 1
wait 2000
heal
