use super::*;

const D: u64 = 2000;

/// A plan whose clock starts at 0, and what it did, in milliseconds.
struct Trial(Plan, u64);

fn trial(upstreams: &[usize], hold_ms: u64) -> Trial {
    let rules = Rules { chunk: Duration::from_millis(D), hold: Duration::from_millis(hold_ms) };
    Trial(Plan::new(rules, upstreams, Timestamp(0)), 0)
}

fn failure(why: Why) -> Failure {
    Failure::new(why, "")
}

impl Trial {
    fn at(&mut self, ms: u64) -> &mut Self {
        while let Some(due) = self.0.deadline().filter(|due| due.0 <= ms * 1000) {
            self.1 = due.0 / 1000;
            self.0.expire(due);
        }
        self.1 = ms;
        self
    }

    fn then(&mut self, input: Input) -> &mut Self {
        self.0.handle(Timestamp(self.1 * 1000), input);
        self
    }

    /// What came out, in short: `+0@1` starts attempt 0 at upstream 1, `-0` stops it, `late` gives up.
    fn out(&mut self) -> String {
        let outputs = std::iter::from_fn(|| self.0.poll());
        let words = outputs.map(|output| match output {
            Output::Start(attempt) => format!("+{}@{}", attempt.id, attempt.upstream),
            Output::Stop(id) => format!("-{id}"),
            Output::GiveUp(failure) => failure.why.code().to_owned(),
        });
        words.collect::<Vec<_>>().join(" ")
    }
}

#[test]
fn a_good_upstream_is_asked_alone() {
    let mut t = trial(&[1, 0], 0);
    assert_eq!(t.out(), "+0@1");
    assert_eq!(t.at(400).then(Input::Head(0)).out(), "");
    assert_eq!(t.then(Input::Bytes(0, 100_000)).at(2300).then(Input::Bytes(0, 100_000)).at(4300).out(), "");
}

#[test]
fn a_slow_one_is_hedged_after_a_quarter_of_a_chunk_and_the_first_answer_counts() {
    let mut t = trial(&[0, 1], 0);
    t.out();
    assert_eq!(t.at(499).out(), "");
    assert_eq!(t.at(500).out(), "+1@1");
    assert_eq!(t.at(600).then(Input::Head(1)).out(), "-0");
    // With one upstream there is nobody to hedge with.
    let mut t = trial(&[0], 0);
    t.out();
    assert_eq!(t.at(1999).out(), "");
}

#[test]
fn a_stuck_one_is_replaced_once_and_then_it_is_too_late() {
    let mut t = trial(&[0], 0);
    t.out();
    assert_eq!(t.at(2000).out(), "-0 +1@0");
    assert_eq!(t.at(3999).out(), "");
    assert_eq!(t.at(4000).out(), "-1 late");
    assert_eq!(t.at(60_000).out(), "");
    // A hedge that runs is the replacement.
    let mut t = trial(&[0, 1], 0);
    t.out();
    assert_eq!(t.at(500).out(), "+1@1");
    assert_eq!(t.at(2000).out(), "-0");
    assert_eq!(t.at(4000).out(), "-1 late");
}

#[test]
fn what_may_be_held_has_more_time() {
    let mut t = trial(&[0, 1], D);
    t.out();
    assert_eq!(t.at(2499).out(), "");
    assert_eq!(t.at(2500).out(), "+1@1");
}

#[test]
fn one_that_breaks_off_in_the_middle_is_asked_for_the_rest_once() {
    let mut t = trial(&[0], 0);
    t.out();
    t.at(100).then(Input::Head(0)).then(Input::Bytes(0, 1000));
    assert_eq!(t.then(Input::Failed(0, failure(Why::Broken))).out(), "+1@0");
    t.then(Input::Head(1)).then(Input::Bytes(1, 1000));
    assert_eq!(t.then(Input::Failed(1, failure(Why::Broken))).out(), "broken");
    // With two the other one goes on.
    let mut t = trial(&[0, 1], 0);
    t.out();
    t.at(100).then(Input::Head(0)).then(Input::Bytes(0, 1000));
    assert_eq!(t.then(Input::Failed(0, failure(Why::Broken))).out(), "+1@1");
}

#[test]
fn a_body_that_trickles_is_replaced_once_and_one_that_stops_is_given_up() {
    let mut t = trial(&[0], 0);
    t.out();
    t.then(Input::Head(0)).then(Input::Bytes(0, 100));
    assert_eq!(t.at(2000).out(), "-0 +1@0");
    t.then(Input::Head(1)).then(Input::Bytes(1, 100));
    assert_eq!(t.at(4000).out(), "", "slow but alive");
    assert_eq!(t.at(6000).out(), "-1 late");
}

#[test]
fn a_replacement_in_the_middle_has_as_much_time_as_the_first_had() {
    let mut t = trial(&[0], 0);
    t.out();
    t.at(100).then(Input::Head(0)).then(Input::Bytes(0, 64_000));
    assert_eq!(t.at(4099).out(), "", "the first 2 s were good");
    assert_eq!(t.at(4100).out(), "-0 +1@0");
    assert_eq!(t.at(5000).then(Input::Head(1)).then(Input::Bytes(1, 64_000)).out(), "");
    // A body that broke off late is continued too.
    let mut t = trial(&[0, 1], 0);
    t.out();
    t.at(100).then(Input::Head(0));
    for second in 1..30 {
        t.at(second * 1000).then(Input::Bytes(0, 64_000));
    }
    assert_eq!(t.then(Input::Failed(0, failure(Why::Broken))).out(), "+1@1");
    assert_eq!(t.at(30_000).then(Input::Head(1)).out(), "");
}

#[test]
fn who_lost_the_race_goes_on_when_the_winner_breaks_off() {
    let mut t = trial(&[0, 1], 0);
    t.out();
    assert_eq!(t.at(500).out(), "+1@1");
    assert_eq!(t.at(600).then(Input::Head(0)).out(), "-1");
    assert_eq!(t.then(Input::Down(0)).out(), "-0 +2@1");
}

#[test]
fn an_upstream_that_is_gone_is_left_at_once_when_there_is_another() {
    let mut t = trial(&[0, 1], 5 * D);
    t.out();
    assert_eq!(t.at(700).then(Input::Down(0)).out(), "-0 +1@1");
    assert_eq!(t.then(Input::Head(1)).then(Input::Down(0)).out(), "");
    let mut t = trial(&[0], 5 * D);
    t.out();
    assert_eq!(t.at(700).then(Input::Down(0)).out(), "");
}

#[test]
fn a_server_error_is_final_when_nobody_else_can_be_asked() {
    let mut t = trial(&[0], 0);
    t.out();
    assert_eq!(t.then(Input::Failed(0, failure(Why::Unavailable))).out(), "unavailable");
    let mut t = trial(&[0, 1], 0);
    t.out();
    assert_eq!(t.then(Input::Failed(0, failure(Why::Broken))).out(), "+1@1");
    assert_eq!(t.then(Input::Failed(1, failure(Why::NotFound))).out(), "broken", "the first one may have had it");
}

#[test]
fn only_all_of_them_can_say_that_it_is_not_there() {
    let mut t = trial(&[0, 1], 0);
    t.out();
    assert_eq!(t.then(Input::Failed(0, failure(Why::NotFound))).out(), "+1@1");
    assert_eq!(t.then(Input::Failed(1, failure(Why::NotFound))).out(), "not_found");
}

#[test]
fn a_request_that_cannot_be_followed_is_asked_nobody_else() {
    let mut t = trial(&[0, 1], 0);
    t.out();
    assert_eq!(t.then(Input::Failed(0, failure(Why::Refused))).out(), "refused");
}

#[test]
fn nobody_to_ask_is_told_at_once() {
    assert_eq!(trial(&[], 0).out(), "unavailable");
}

#[test]
fn failures_count_for_a_moment() {
    let ms = |why, random| failure(why).keep(false, random).as_millis();
    assert_eq!((ms(Why::Broken, 0.0), ms(Why::Broken, 1.0)), (100, 500));
    assert_eq!(failure(Why::NotFound).keep(true, 0.5).as_millis(), 50, "a part is made in a third of a second");
    assert_eq!((ms(Why::NotFound, 0.3), ms(Why::Busy, 0.3)), (1000, 0));
}

/// Whatever happens, a plan ends, never runs more than two attempts, and never more than a bounded number in all.
#[test]
fn any_course_ends() {
    use proptest::prelude::*;
    proptest!(|(upstreams in 0usize..4, hold in 0u64..3000, steps in prop::collection::vec((0u8..5, 0usize..6, 1u64..900), 0..60))| {
        let all: Vec<usize> = (0..upstreams).collect();
        let mut t = trial(&all, hold);
        let (mut running, mut over, mut started) = (Vec::new(), false, 0);
        let mut drain = |t: &mut Trial, running: &mut Vec<usize>| {
            while let Some(output) = t.0.poll() {
                assert!(!over, "{output:?} after the end");
                match output {
                    Output::Start(attempt) => { running.push(attempt.id); started += 1; }
                    Output::Stop(id) => running.retain(|other| *other != id),
                    Output::GiveUp(_) => { assert!(running.is_empty()); over = true; }
                }
                assert!(running.len() <= 2);
            }
            over
        };
        let mut at = 0;
        for (what, which, pause) in steps {
            at += pause;
            t.at(at);
            drain(&mut t, &mut running);
            let Some(&id) = running.get(which % running.len().max(1)) else { break };
            match what {
                0 => t.then(Input::Head(id)),
                1 => t.then(Input::Bytes(id, 10)),
                2 => { running.retain(|other| *other != id); t.then(Input::Failed(id, failure(Why::Broken))) }
                3 => { running.retain(|other| *other != id); t.then(Input::Failed(id, failure(Why::NotFound))) }
                _ => t.then(Input::Down(which % upstreams.max(1))),
            };
            drain(&mut t, &mut running);
        }
        // Silence from here on ends it.
        t.at(at + 100 * D);
        prop_assert!(drain(&mut t, &mut running));
        prop_assert!(started <= 2 * upstreams + 3, "{started}");
    });
}
