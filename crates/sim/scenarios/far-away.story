# Members that a new master has not heard are given three timeouts if their ports answer it.
#
# Over long links a peer that lost its master needs several round trips until another one has heard it: more than a heartbeat
# timeout. Here peer2 is that slow; the others are there at once. Nobody loses its place.
peers 3
masters 2
lease 600
seed 3
when master1 -> peer0: [term 1] committed
crash master1
when store: term 2 taken
freeze peer2
wait 1100
thaw peer2
wait 200
heal
