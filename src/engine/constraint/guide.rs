//! Where one answer is in its grammar.

use std::fmt;

use tokio::sync::oneshot;

use super::Constraint;
use super::reader::{Reader, Standing};
use crate::model::TokenMask;

/// Whether tokens that the grammar leaves no choice about are taken at once, without the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) enum JumpAhead {
    Yes,
    /// Each is chosen, from a mask of itself: its score is wanted.
    No,
}

/// What follows from a token that was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::engine) struct Advance {
    /// Tokens that must come next.
    pub(in crate::engine) forced: Vec<u32>,
    /// What comes after them.
    pub(in crate::engine) then: Then,
}

/// How an answer stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::engine) enum Then {
    /// The model chooses the next token.
    Choice,
    /// The grammar has no more to say.
    Complete,
    /// It cannot go on.
    Stuck(String),
}

/// One answer's place in its grammar.
pub(in crate::engine) struct Guide {
    state: State,
    jump_ahead: JumpAhead,
}

enum State {
    /// The mask of the next choice is known.
    Ready(Box<Reader>, TokenMask),
    /// The next choice is not near yet.
    Idle(Box<Reader>),
    /// A thread of the pool computes the mask.
    Computing(oneshot::Receiver<Masked>),
    Stuck(String),
}

type Masked = (Box<Reader>, Result<TokenMask, String>);

/// What says that a thread went away.
const LOST: &str = "the thread that computed what is allowed next has ended";

impl Guide {
    /// At the beginning.
    pub(in crate::engine) fn new(constraint: &Constraint, jump_ahead: JumpAhead) -> Self {
        let state = State::Ready(Box::new(Reader::new(constraint)), constraint.first());
        Self { state, jump_ahead }
    }

    /// What may be chosen now. Nothing before [`Guide::wait`].
    pub(in crate::engine) fn allowed(&self) -> Option<&TokenMask> {
        match &self.state {
            State::Ready(_, mask) => Some(mask),
            State::Idle(_) | State::Computing(_) | State::Stuck(_) => None,
        }
    }

    /// Takes the token that was chosen.
    pub(in crate::engine) fn advance(&mut self, token: u32) -> Advance {
        let advanced = self.take().and_then(|mut reader| {
            let advance = self.read(&mut reader, token)?;
            self.state = State::Idle(reader);
            Ok(advance)
        });
        advanced.unwrap_or_else(|why| {
            self.state = State::Stuck(why.clone());
            Advance { forced: Vec::new(), then: Then::Stuck(why) }
        })
    }

    fn read(&self, reader: &mut Reader, token: u32) -> Result<Advance, String> {
        let standing = reader.read(token)?;
        if standing == Standing::Complete || self.jump_ahead == JumpAhead::No {
            return Ok(Advance { forced: Vec::new(), then: standing.into() });
        }
        let (forced, standing) = reader.read_forced()?;
        Ok(Advance { forced, then: standing.into() })
    }

    /// Begins to compute what may be chosen next, on the pool of threads.
    pub(in crate::engine) fn prepare(&mut self) {
        let mut reader = match self.take() {
            Ok(reader) => reader,
            Err(why) => return self.state = State::Stuck(why),
        };
        let (told, mask) = oneshot::channel();
        rayon::spawn(move || {
            let mask = reader.mask();
            // whose answer was cancelled meanwhile wants none
            drop(told.send((reader, mask)));
        });
        self.state = State::Computing(mask);
    }

    /// Waits for what may be chosen now.
    pub(in crate::engine) fn wait(&mut self) -> Result<(), String> {
        let state = std::mem::replace(&mut self.state, State::Stuck(LOST.to_owned()));
        let (reader, mask) = match state {
            State::Computing(mask) => mask.blocking_recv().map_err(|_| LOST.to_owned())?,
            State::Idle(mut reader) => {
                let mask = reader.mask();
                (reader, mask)
            }
            State::Ready(reader, mask) => (reader, Ok(mask)),
            State::Stuck(why) => return Err(why),
        };
        self.state = State::Ready(reader, mask?);
        Ok(())
    }

    /// The reader, whatever it is doing. Whoever takes it sets the state.
    fn take(&mut self) -> Result<Box<Reader>, String> {
        let state = std::mem::replace(&mut self.state, State::Stuck(LOST.to_owned()));
        match state {
            State::Ready(reader, _) | State::Idle(reader) => Ok(reader),
            State::Computing(mask) => Ok(mask.blocking_recv().map_err(|_| LOST.to_owned())?.0),
            State::Stuck(why) => Err(why),
        }
    }
}

impl From<Standing> for Then {
    fn from(standing: Standing) -> Self {
        match standing {
            Standing::Open => Self::Choice,
            Standing::Complete => Self::Complete,
        }
    }
}

impl fmt::Debug for Guide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guide").field("jump_ahead", &self.jump_ahead).finish_non_exhaustive()
    }
}
