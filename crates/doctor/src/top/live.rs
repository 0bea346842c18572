//! The screen that goes on until somebody quits.

use std::io;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::widgets::Paragraph;

use super::sample::{Column, Sample, Sampler};
use super::view::draw;

/// How long a key, or a new sample, may wait.
const GLANCE: Duration = Duration::from_millis(100);

/// Shows a fleet on the terminal until q, Esc or Ctrl-C. Samples are taken by a thread of their own, so that keys count also
/// while a master does not answer.
///
/// # Errors
/// What the terminal says.
pub fn live(mut source: Sampler, interval: Duration) -> io::Result<()> {
    let (taken, samples) = channel();
    thread::Builder::new().name("pccl-top".into()).spawn(move || {
        while taken.send(source.sample()).is_ok() {
            thread::sleep(interval);
        }
    })?;
    // It sees to it that a panic leaves the terminal as it was.
    let mut terminal = ratatui::try_init()?;
    let ended = show(&mut terminal, &samples);
    ratatui::restore();
    ended
}

fn show(terminal: &mut DefaultTerminal, samples: &Receiver<Sample>) -> io::Result<()> {
    let mut newest: Option<Sample> = None;
    let mut by = Column::default();
    loop {
        newest = samples.try_iter().last().or(newest);
        terminal.draw(|frame| match &newest {
            Some(sample) => draw(frame, sample, by),
            None => frame.render_widget(Paragraph::new("asking the masters"), frame.area()),
        })?;
        if !event::poll(GLANCE)? {
            continue;
        }
        let Event::Key(key) = event::read()? else { continue };
        if key.kind != KeyEventKind::Press {
            continue;
        }
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return Ok(()),
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Ok(()),
            KeyCode::Char('s') => by = by.next(),
            _ => {}
        }
    }
}
