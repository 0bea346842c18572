//! The exit codes: what a script can rely on.

use std::fmt::Write as _;

/// How the program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// All is well.
    Success = 0,
    /// It ran to its end, and the result is not what it must be.
    Failed = 1,
    /// The command line makes no sense; `clap` uses the same number.
    Usage = 2,
    /// The configuration was refused.
    Config = 3,
    /// No master could be reached, or it said no.
    Connect = 4,
    /// A port cannot be had.
    Port = 5,
    /// An input file cannot be used.
    Input = 6,
    /// A collective failed, or this peer's membership ended.
    Collective = 7,
    /// The operating system refused something.
    System = 8,
    /// A part of a deployment is done, and a part failed or was skipped.
    Partial = 9,
    /// Somebody else runs this deployment.
    Locked = 10,
    /// Ctrl-C or SIGTERM.
    Interrupted = 130,
}

impl Exit {
    const ALL: [(Self, &'static str); 12] = [
        (Self::Success, "all is well"),
        (
            Self::Failed,
            "it ran to its end and the result is wrong: diverged, wrong elements, a fault not survived, a network below the minimum, a fleet that is not well",
        ),
        (Self::Usage, "the command line makes no sense"),
        (Self::Config, "the configuration was refused"),
        (Self::Connect, "no master could be reached, or it said no"),
        (Self::Port, "a port cannot be had"),
        (Self::Input, "an input file cannot be used"),
        (Self::Collective, "a collective failed, or this peer's membership ended"),
        (Self::System, "the operating system refused something"),
        (Self::Partial, "a part of a deployment is done, a part failed or was skipped"),
        (Self::Locked, "somebody else runs this deployment"),
        (Self::Interrupted, "Ctrl-C, or SIGTERM where something is cleaned up first (elsewhere 143)"),
    ];

    /// The number.
    pub(crate) fn code(self) -> u8 {
        self as u8
    }

    /// The one with this number.
    pub(crate) fn from_code(code: i32) -> Option<Self> {
        Self::ALL.iter().find(|(exit, _)| i32::from(exit.code()) == code).map(|(exit, _)| *exit)
    }
}

/// What stands below the options of a command's commands: examples.
pub(crate) fn examples(examples: &[(&str, &str)]) -> String {
    let mut text = String::from("Examples:\n");
    for (about, line) in examples {
        let _ = write!(text, "  # {about}\n  {line}\n");
    }
    text
}

/// What stands below the options in every `--help`: examples, then the exit codes.
pub(crate) fn help(examples: &[(&str, &str)]) -> String {
    let mut text = self::examples(examples);
    text.push_str("\nExit codes:\n");
    for (exit, about) in Exit::ALL {
        let _ = writeln!(text, "  {:>3}  {about}", exit.code());
    }
    text.truncate(text.trim_end().len());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_documented_once() {
        let text = help(&[("see it", "pccl up")]);
        for (exit, about) in Exit::ALL {
            assert_eq!(Exit::from_code(i32::from(exit.code())), Some(exit));
            assert_eq!(text.matches(about).count(), 1);
        }
        assert!(text.starts_with("Examples:\n  # see it\n  pccl up\n"));
    }
}
