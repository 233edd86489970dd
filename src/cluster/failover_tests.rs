use super::*;

fn node(name: &str) -> Node {
    name.into()
}

fn at(ms: u64) -> Timestamp {
    Timestamp(ms * 1000)
}

/// A machine with candidates `a b c`, and what it put out, as text.
struct Run {
    machine: Failover,
}

impl Run {
    fn new(standbys: usize) -> Self {
        let mut run = Self { machine: Failover::new(standbys) };
        run.candidates(0, "a b c");
        run
    }

    fn candidates(&mut self, ms: u64, names: &str) {
        let nodes = names.split_whitespace().map(node).collect();
        self.machine.handle(at(ms), Input::Candidates { nodes, owner: None });
    }

    fn stands(&mut self, ms: u64, name: &str, leads: bool, k: u64) {
        let k = (k > 0).then_some(k);
        let encoded = BTreeMap::new();
        self.machine.handle(at(ms), Input::Standing { node: node(name), leads, k, encoded, draining: false });
    }

    /// A node is at chunk 4 and has encoded a rendition up to there.
    fn encodes(&mut self, ms: u64, name: &str, pts: i64) {
        let (node, leads) = (node(name), self.machine.leader() == Some(&node(name)));
        let encoded = BTreeMap::from([("480p".parse().unwrap(), pts)]);
        self.machine.handle(at(ms), Input::Standing { node, leads, k: Some(4), encoded, draining: false });
    }

    fn led(&mut self, ms: u64, name: &str) {
        self.machine.handle(at(ms), Input::Led(node(name)));
    }

    fn lost(&mut self, ms: u64, name: &str) {
        self.machine.handle(at(ms), Input::Lost(node(name)));
    }

    fn out(&mut self) -> String {
        let text = std::iter::from_fn(|| self.machine.poll()).map(|output| match output {
            Output::Open(node) => format!("open {node}"),
            Output::Lead(node) => format!("lead {node}"),
            Output::Leave(node) => format!("leave {node}"),
            Output::Close(node) => format!("close {node}"),
        });
        text.collect::<Vec<_>>().join(", ")
    }

    /// `a` leads, `b` stands by.
    fn begun() -> Self {
        let mut run = Self::new(1);
        run.stands(10, "a", false, 0);
        run.stands(10, "b", false, 0);
        run.led(20, "a");
        run.stands(1000, "a", true, 4);
        run.stands(1000, "b", false, 4);
        run.out();
        run
    }
}

#[test]
fn the_first_and_the_second_node_make_a_stream() {
    let mut run = Run::new(1);
    assert_eq!(run.out(), "open a, open b");
    // It waits for all: the other may lead since a session before.
    run.stands(10, "a", false, 0);
    assert_eq!(run.out(), "");
    run.stands(11, "b", false, 0);
    assert_eq!(run.out(), "lead a");
    run.led(20, "a");
    assert_eq!(run.machine.leader(), Some(&node("a")));
    assert_eq!(run.out(), "");
}

#[test]
fn whoever_leads_already_goes_on() {
    let mut run = Run::new(1);
    run.out();
    run.stands(10, "a", false, 0);
    run.stands(11, "b", true, 9);
    assert_eq!(run.out(), "lead b");
    let mut run = Run { machine: Failover::new(1) };
    let nodes = ["a", "b", "c"].map(node).to_vec();
    run.machine.handle(at(0), Input::Candidates { nodes, owner: Some(node("c")) });
    // The owner is not one of the two that the ring prefers.
    assert_eq!(run.out(), "open c, open a, open b");
}

#[test]
fn the_standby_takes_over_and_another_stands_by() {
    let mut run = Run::begun();
    run.lost(2000, "a");
    assert_eq!(run.out(), "open c, lead b");
    run.led(2010, "b");
    run.stands(2020, "c", false, 0);
    run.stands(3000, "b", true, 5);
    run.stands(3000, "c", false, 5);
    // What was lost is back: it stands by again, as the ring prefers it, once it is as far.
    run.stands(3100, "b", true, 6);
    assert_eq!(run.out(), "open a");
    run.stands(3200, "a", false, 5);
    assert_eq!(run.out(), "");
    run.stands(3300, "a", false, 6);
    assert_eq!(run.out(), "leave c");
    run.lost(4000, "b");
    assert_eq!(run.out(), "open c, lead a");
}

#[test]
fn a_standby_that_is_lost_is_replaced() {
    let mut run = Run::begun();
    run.lost(2000, "b");
    assert_eq!(run.out(), "open c");
    run.lost(2100, "c");
    assert_eq!(run.out(), "");
    assert_eq!(run.machine.deadline(), Some(at(3000)));
    run.machine.tick(at(3000));
    assert_eq!(run.out(), "open b");
}

#[test]
fn one_that_does_not_lead_in_time_is_given_up() {
    let mut run = Run::begun();
    run.lost(2000, "a");
    run.stands(2010, "c", false, 4);
    run.out();
    run.machine.tick(at(5000));
    assert_eq!(run.out(), "close b, open a, lead c");
}

#[test]
fn a_leader_that_makes_nothing_is_replaced() {
    let mut run = Run::begun();
    run.stands(3000, "b", false, 5);
    run.stands(5000, "b", false, 6);
    assert_eq!(run.out(), "");
    assert_eq!(run.machine.deadline(), Some(at(6000)));
    run.machine.tick(at(6000));
    assert_eq!(run.out(), "close a, lead b");
}

#[test]
fn the_preferred_node_gets_its_stream_when_it_has_stayed() {
    let mut run = Run::begun();
    run.candidates(2000, "d a b c");
    assert_eq!(run.out(), "open d");
    run.stands(3000, "d", false, 5);
    assert_eq!(run.out(), "leave b");
    for ms in [4000, 61_000] {
        run.stands(ms, "a", true, ms / 1000);
        run.stands(ms, "d", false, ms / 1000);
    }
    assert_eq!(run.out(), "");
    run.machine.tick(at(62_000));
    assert_eq!(run.out(), "lead d");
    run.led(62_010, "d");
    assert_eq!(run.out(), "leave a, open a");
}

#[test]
fn a_node_that_drains_is_left_as_soon_as_another_is_as_far() {
    let drains = |run: &mut Run, ms, k| {
        let (node, k) = (node("a"), Some(k));
        run.machine.handle(at(ms), Input::Standing { node, leads: true, k, encoded: BTreeMap::new(), draining: true });
    };
    let mut run = Run::begun();
    drains(&mut run, 2000, 5);
    assert_eq!(run.out(), "");
    run.stands(2100, "b", false, 5);
    assert_eq!(run.out(), "lead b");
    // Also where none stood by.
    let mut run = Run::new(0);
    run.stands(10, "a", false, 0);
    run.led(20, "a");
    run.out();
    drains(&mut run, 2000, 5);
    run.candidates(2000, "b c a");
    assert_eq!(run.out(), "open b");
    run.stands(2100, "b", false, 5);
    assert_eq!(run.out(), "lead b");
}

#[test]
fn a_node_that_has_stopped_and_is_back_stands_by_at_once() {
    let stopped = || {
        let mut run = Run::begun();
        let (node, k, encoded) = (node("a"), Some(5), BTreeMap::new());
        run.machine.handle(at(2000), Input::Standing { node, leads: true, k, encoded, draining: true });
        run.stands(2100, "b", false, 5);
        run.led(2200, "b");
        assert_eq!(run.out(), "lead b, leave a, open c");
        run
    };
    // While it stops it still answers.
    let mut run = stopped();
    run.candidates(2300, "b c a");
    run.candidates(2400, "a b c");
    assert_eq!(run.out(), "");
    let mut run = stopped();
    run.candidates(2300, "b c");
    run.candidates(2400, "a b c");
    assert_eq!(run.out(), "open a");
}

#[test]
fn a_leader_whose_encoder_is_stuck_gives_way_within_a_second_and_not_at_once_again() {
    let mut run = Run::begun();
    for beat in 0..8 {
        let (ms, pts) = (11_250 + beat * 250, beat as i64 * 22_500);
        // It is slower by one beat, and not stuck.
        run.encodes(ms, "a", pts);
        run.encodes(ms + 10, "b", pts + 22_500);
    }
    assert_eq!(run.out(), "");
    // Ahead for the first time at 13260.
    for ms in [13_250, 13_500, 13_750] {
        run.encodes(ms, "a", 180_000);
        run.encodes(ms + 10, "b", 90 * ms as i64);
        assert_eq!(run.out(), "");
    }
    assert_eq!(run.machine.deadline(), Some(at(14_010)));
    run.machine.tick(at(14_010));
    assert_eq!(run.out(), "lead b");
    run.led(14_020, "b");
    assert_eq!(run.out(), "leave a, open a");
    // The other way round it has to wait.
    for ms in (14_250..24_000).step_by(250) {
        run.encodes(ms, "b", 400_000);
        run.encodes(ms + 10, "a", 90 * ms as i64);
        assert_eq!(run.out(), "");
    }
    run.machine.tick(at(24_010));
    assert_eq!(run.out(), "lead a");
}

#[test]
fn of_two_encoders_that_are_both_slow_neither_is_stuck() {
    let mut run = Run::begun();
    // One picture each second and a half, as they come; each is told at its own beat.
    for (n, ms) in (2000..30_000).step_by(250).enumerate() {
        let picture = |ms: u64| (ms / 1500) as i64 * 135_000;
        run.encodes(ms, "b", picture(ms));
        if n % 2 == 0 {
            run.encodes(ms + 200, "a", picture(ms));
        }
        assert_eq!(run.out(), "", "{ms}");
    }
}

#[test]
fn a_node_that_catches_up_is_no_measure() {
    let mut run = Run::begun();
    run.lost(10_000, "b");
    run.out();
    // The leader's encoder starves while another's catches up and passes it.
    for ms in (10_250..14_900).step_by(250) {
        run.encodes(ms, "a", 1);
        run.encodes(ms, "c", 90 * ms as i64);
        assert!(!run.out().contains("lead"), "{ms}");
    }
}
