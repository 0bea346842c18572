use super::*;

/// A fleet in which all do what the test says.
struct Scene {
    chaos: Chaos,
    members: Vec<(Id, u64, u64)>,
    typical_seconds: f64,
    now: Instant,
}

impl Scene {
    fn new(kinds: &[Kind], typical_seconds: f64) -> Self {
        Self {
            chaos: Chaos::new(kinds, 8, 3),
            members: vec![(1, 0, 0), (2, 0, 0), (3, 0, 0)],
            typical_seconds,
            now: Instant::now(),
        }
    }

    fn poll(&mut self) -> Option<Action> {
        let fleet = Fleet { members: &self.members, typical_seconds: Some(self.typical_seconds) };
        self.chaos.poll(self.now, &fleet)
    }

    fn enter(&mut self, round: u64, except: Option<Id>) {
        for (id, entered, _) in self.members.iter_mut().filter(|(id, ..)| Some(*id) != except) {
            *entered = round;
            self.chaos.handle(self.now, Fact::Entered(*id, round));
        }
    }

    fn report(&mut self, round: u64, recoveries: u32, except: Option<Id>) {
        for (id, _, done) in self.members.iter_mut().filter(|(id, ..)| Some(*id) != except) {
            *done = round;
            self.chaos.handle(self.now, Fact::Reduced { worker: *id, round, recoveries });
        }
    }

    /// Calm rounds until the plan acts.
    fn until_action(&mut self, from: u64) -> (u64, Action) {
        for round in from..100 {
            self.enter(round, None);
            if let Some(action) = self.poll() {
                return (round, action);
            }
            if let Some(at) = self.chaos.poll_timeout() {
                self.now = at;
                return (round, self.poll().expect("it is time"));
            }
            self.report(round, 0, None);
        }
        panic!("it never strikes");
    }

    fn lose(&mut self, victim: Id) {
        self.members.retain(|(id, ..)| *id != victim);
    }

    fn gain(&mut self, id: Id, rounds: u64) {
        self.members.push((id, rounds, rounds));
        self.chaos.handle(self.now, Fact::Synced(id));
    }
}

/// At the scene no time passes after a strike.
fn judged(kind: Kind, round: u64, hit: bool) -> Action {
    Action::Judged(Judgement { kind, round, hit, seconds: hit.then_some(0.0) })
}

#[test]
fn a_kill_counts_when_the_survivors_recovered_and_the_replacement_is_in() {
    let mut scene = Scene::new(&[Kind::Kill], 1.0);
    let (round, action) = scene.until_action(1);
    let Action::Kill(victim, struck) = action else { panic!("{action:?}") };
    assert_eq!(struck, round);
    scene.lose(victim);
    assert_eq!(scene.poll(), None, "the survivors are still in the op");
    scene.report(round, 1, None);
    assert_eq!(scene.poll(), Some(Action::Replace));
    scene.chaos.started(9);
    assert_eq!(scene.poll(), None, "the replacement is not in yet");
    scene.gain(9, round);
    assert_eq!(scene.poll(), Some(judged(Kind::Kill, round, true)));
    assert!(scene.chaos.is_over());
    assert_eq!(scene.chaos.tally(), Tally { kill: 1, ..Tally::default() });
}

#[test]
fn a_kill_after_the_op_is_a_miss_and_is_tried_again() {
    let mut scene = Scene::new(&[Kind::Kill], 1.0);
    let (round, action) = scene.until_action(1);
    let Action::Kill(victim, _) = action else { panic!("{action:?}") };
    scene.lose(victim);
    scene.report(round, 0, None);
    assert_eq!(scene.poll(), Some(Action::Replace));
    scene.chaos.started(9);
    scene.gain(9, round);
    assert_eq!(scene.poll(), Some(judged(Kind::Kill, round, false)));
    assert!(!scene.chaos.is_over());
    assert_eq!(scene.chaos.tally().missed, 1);
    let (again, action) = scene.until_action(round + 1);
    assert!(again > round && matches!(action, Action::Kill(..)));
}

#[test]
fn in_short_ops_the_victim_holds_back_until_all_others_are_inside() {
    let mut scene = Scene::new(&[Kind::Kill], 0.001);
    let (round, action) = scene.until_action(1);
    let Action::Hold(victim) = action else { panic!("{action:?}") };
    scene.report(round, 0, None);
    scene.chaos.handle(scene.now, Fact::Held(victim));
    assert_eq!(scene.poll(), None, "the others have not called");
    scene.enter(round + 1, Some(victim));
    assert_eq!(scene.poll(), None);
    scene.now = scene.chaos.poll_timeout().expect("it has a time");
    assert_eq!(scene.poll(), Some(Action::Kill(victim, round + 1)));
}

#[test]
fn a_freeze_counts_when_the_victim_has_learned_of_it_and_is_back() {
    let mut scene = Scene::new(&[Kind::Freeze], 1.0);
    let (round, action) = scene.until_action(1);
    let Action::Freeze(victim, _) = action else { panic!("{action:?}") };
    scene.lose(victim);
    assert_eq!(scene.poll(), None, "the others are still in the op");
    scene.report(round, 1, None);
    assert_eq!(scene.poll(), Some(Action::Thaw(victim)));
    assert_eq!(scene.poll(), None);
    scene.chaos.handle(scene.now, Fact::Expelled(victim));
    assert_eq!(scene.poll(), None, "it is not back yet");
    scene.gain(victim, round + 3);
    assert_eq!(scene.poll(), Some(judged(Kind::Freeze, round, true)));
}

#[test]
fn a_thawed_worker_that_goes_on_was_not_hit() {
    let mut scene = Scene::new(&[Kind::Freeze], 1.0);
    let (round, action) = scene.until_action(1);
    let Action::Freeze(victim, _) = action else { panic!("{action:?}") };
    scene.lose(victim);
    scene.report(round, 0, None);
    assert_eq!(scene.poll(), Some(Action::Thaw(victim)));
    scene.chaos.handle(scene.now, Fact::Reduced { worker: victim, round, recoveries: 0 });
    assert_eq!(scene.poll(), None);
    scene.chaos.handle(scene.now, Fact::Entered(victim, round + 1));
    assert_eq!(scene.poll(), Some(judged(Kind::Freeze, round, false)));
}

#[test]
fn an_extra_worker_counts_when_it_is_in() {
    let mut scene = Scene::new(&[Kind::Join], 0.001);
    let (round, action) = scene.until_action(1);
    assert_eq!(action, Action::Start(round));
    scene.chaos.started(4);
    scene.report(round, 0, None);
    assert_eq!(scene.poll(), None);
    scene.gain(4, round);
    assert_eq!(scene.poll(), Some(judged(Kind::Join, round, true)));
    assert!(scene.chaos.is_over());
}

#[test]
fn strikes_are_spread_over_the_rounds() {
    let kinds = [Kind::Join, Kind::Join, Kind::Join];
    let mut scene = Scene::new(&kinds, 1.0);
    scene.chaos = Chaos::new(&kinds, 20, 1);
    let mut struck = Vec::new();
    let mut from = 1;
    for newcomer in 10..13 {
        let (round, _) = scene.until_action(from);
        scene.chaos.started(newcomer);
        scene.report(round, 0, None);
        scene.gain(newcomer, round);
        assert!(matches!(scene.poll(), Some(Action::Judged(Judgement { hit: true, .. }))));
        struck.push(round);
        from = round + 1;
    }
    assert_eq!(struck, [4, 8, 12]);
}
