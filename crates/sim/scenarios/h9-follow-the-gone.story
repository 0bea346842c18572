# H9. Whoever connects again names the session that it ended, and newcomers may form the next epoch once no member has been
# heard for master_timeout.
#
# The power of all members' hosts fails. Others come, and find a master that waits for members which will never be back.
peers 2
master_timeout 2000
without FollowTheGone
when master0 -> peer0: [term 1] committed
power off peer0
power off peer1
start peer 2
start peer 3
wait 5000
heal
