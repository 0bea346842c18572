# Within an epoch revisions only grow.
#
# The store does not say what became of a write that makes a synchronization stand. The master asks again, and is
# answered; peers go on and synchronize once more. Then the first write arrives at last. It names the newest term and the
# epoch that still runs, and must not take the revision back.
peers 2
syncs 60
seed 1
when peer0: synchronized in round
when synchronize: SyncPlan
when synchronize: SyncPlan
store late 250
when the store did not answer
store on
when peer0: synchronized in round
when peer0: synchronized in round
when (late)
wait 100
heal
