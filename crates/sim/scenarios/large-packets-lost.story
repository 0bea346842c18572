# Between two members small packets get through and large ones are lost: connections come about, and carry no data.
#
# So it is behind a tunnel whose MTU nobody knows. Each connection greets, breaks under the first data, and the next one begins with the
# same data. Nothing hangs for that: whoever has sent in vain for three timeouts tells the master, and it decides who goes.
peers 3
seed 5
when round 1000035
swallow peer1 peer0 100
when no data comes through
when is out: it and peer
when of round 1000036 (group 0) (tag 0) succeeded
heal
