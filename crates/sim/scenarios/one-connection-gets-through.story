# Between these hosts only one connection gets through, however many a link would like to have.
#
# The others are refused for ever. That breaks no link and costs nobody its place, and no frame waits for them: also where the only
# connection breaks, and an op begins before there is another one.
peers 2
connections 3
carries 1
pieces 64
seed 5
when peer1: op 0 of round 1000013 (group 0) (tag 0) succeeded
cut peer0 peer1
break peer0 peer1
wait 200
mend peer0 peer1
when of round 1000014 (group 0) (tag 0) succeeded
wait 600
heal
