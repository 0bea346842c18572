//! What all workers know before each round: decided by small all-reduces, so that everybody decides alike.
//!
//! Nobody may act on what only it sees: a worker that calls an op while another votes would wait for ever. Therefore every
//! decision of the loop is a pure function of the [`Agreement`], which is the result of a committed op and so the same
//! for all.

use std::thread;
use std::time::Duration;

use pccl::{Call, Class, CollectiveError, Communicator, OpInfo, ReduceOp};

/// The tags of the ops of the loop.
const AGREE_TAG: u64 = 1;
/// Of the question whose layout counts.
const LAYOUT_TAG: u64 = 3;
/// Of the averaging, plus the number of the part.
pub(crate) const AVERAGE_TAG: u64 = 16;

/// Values of a voice.
const WORDS: usize = 9;

/// How often an op that failed for all alike is called again before the worker gives up.
const ATTEMPTS: u32 = 20;
/// From such a failure to the next call.
const PAUSE: Duration = Duration::from_millis(20);

/// What one worker says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Voice {
    /// Rounds done by the model it holds; none if it must take one over.
    pub(crate) holds: Option<u64>,
    /// The last round that it may do.
    pub(crate) granted: u64,
    /// Whether it stays after that round.
    pub(crate) lingers: bool,
    /// Workers that it waits for before the first round.
    pub(crate) wanted: u32,
    /// Its model's layout.
    pub(crate) layout: u64,
    /// Rounds done by the model that it began with.
    pub(crate) began_at: u64,
    /// Whether a checkpoint is asked for.
    pub(crate) demands: bool,
}

/// What all have said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Agreement {
    /// Rounds done by the newest model; none if nobody holds one.
    pub(crate) newest: Option<u64>,
    /// Whether somebody does not hold it.
    pub(crate) someone_behind: bool,
    /// The last round granted to anybody.
    pub(crate) granted: u64,
    /// Whether anybody stays after it.
    pub(crate) someone_lingers: bool,
    /// The largest number of workers that anybody waits for.
    pub(crate) wanted: u32,
    /// Whether all models have one layout.
    pub(crate) one_layout: bool,
    /// Rounds done by the model that the fleet began with.
    pub(crate) began_at: u64,
    /// Whether anybody asks for a checkpoint.
    pub(crate) someone_demands: bool,
    /// Workers that took part.
    pub(crate) world: u32,
}

/// Minima travel as maxima of what is left to the top.
fn flipped(value: u64) -> u64 {
    u64::MAX - value
}

impl Voice {
    fn words(&self) -> [u64; WORDS] {
        let newest = self.holds.map_or(0, |rounds| rounds + 1);
        [
            newest,
            flipped(newest),
            self.granted,
            self.lingers.into(),
            self.wanted.into(),
            self.layout,
            flipped(self.layout),
            self.demands.into(),
            self.began_at,
        ]
    }
}

impl Agreement {
    fn from_words(words: [u64; WORDS], world: u32) -> Self {
        let [newest, least, granted, lingers, wanted, layout, least_layout, demands, began_at] = words;
        Self {
            newest: newest.checked_sub(1),
            someone_behind: newest != flipped(least),
            granted,
            someone_lingers: lingers > 0,
            wanted: wanted as u32,
            one_layout: layout == flipped(least_layout),
            began_at,
            someone_demands: demands > 0,
            world,
        }
    }
}

/// Everybody's voices as one.
pub(crate) fn agree(comm: &Communicator, voice: &Voice) -> Result<Agreement, CollectiveError> {
    let mut words = voice.words();
    let info = max_of(comm, AGREE_TAG, &mut words)?;
    Ok(Agreement::from_words(words, info.world))
}

/// The layout of those who say one; none if they differ.
pub(crate) fn common_layout(comm: &Communicator, mine: Option<u64>) -> Result<Option<u64>, CollectiveError> {
    let mut words = mine.map_or([0, 0], |layout| [layout, flipped(layout)]);
    max_of(comm, LAYOUT_TAG, &mut words)?;
    Ok((words[0] == flipped(words[1])).then_some(words[0]))
}

/// The largest of everybody's values, in each place.
fn max_of(comm: &Communicator, tag: u64, values: &mut [u64]) -> Result<OpInfo, CollectiveError> {
    let call = Call::new(tag).op(ReduceOp::Max);
    persist(|| comm.all_reduce_in_place(values, &call))
}

/// Calls again what failed for all alike: no newcomer can have come in between, so everybody calls the same again.
pub(crate) fn persist<T>(mut call: impl FnMut() -> Result<T, CollectiveError>) -> Result<T, CollectiveError> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        match call() {
            Err(error) if error.class() == Class::Retry && attempts < ATTEMPTS => thread::sleep(PAUSE),
            ended => return ended,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(voices: &[Voice]) -> Agreement {
        let mut words = [0; WORDS];
        for voice in voices {
            for (word, mine) in words.iter_mut().zip(voice.words()) {
                *word = mine.max(*word);
            }
        }
        Agreement::from_words(words, voices.len() as u32)
    }

    const VOICE: Voice = Voice {
        holds: Some(4),
        granted: 10,
        lingers: false,
        wanted: 2,
        layout: 77,
        began_at: 0,
        demands: false,
    };

    #[test]
    fn equals_agree() {
        let agreed = all(&[VOICE, VOICE]);
        assert_eq!((agreed.newest, agreed.someone_behind), (Some(4), false));
        assert!(agreed.one_layout && !agreed.someone_lingers);
        assert_eq!((agreed.granted, agreed.wanted, agreed.world), (10, 2, 2));
    }

    #[test]
    fn one_without_the_newest_model_is_noticed() {
        let new = Voice { holds: None, ..VOICE };
        let fresh = Voice { holds: Some(0), ..VOICE };
        for other in [new, fresh] {
            let agreed = all(&[VOICE, other]);
            assert_eq!((agreed.newest, agreed.someone_behind), (Some(4), true));
        }
        assert_eq!(all(&[new]).newest, None);
    }

    #[test]
    fn one_layout_that_differs_and_one_that_lingers_are_noticed() {
        let other = Voice { layout: 78, lingers: true, ..VOICE };
        let agreed = all(&[VOICE, other, VOICE]);
        assert!(!agreed.one_layout && agreed.someone_lingers);
    }
}
