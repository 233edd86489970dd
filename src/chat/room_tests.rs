use super::*;

fn user(name: &str) -> UserId {
    name.parse().unwrap()
}

fn guest(name: &str) -> Who {
    Who { user: user(name), name: name.to_uppercase(), roles: vec![], address: Some("203.0.113.7".parse().unwrap()) }
}

fn staff(name: &str, role: Role) -> Who {
    Who { roles: vec![role], ..guest(name) }
}

fn at(ms: i64) -> UnixMs {
    UnixMs(1_770_000_000_000 + ms)
}

struct Run(Room);

impl Run {
    fn new() -> Self {
        Self(Room::restore(&[], &[], 1).0)
    }

    fn say(&mut self, ms: i64, who: &Who, text: &str) -> Result<Done, Refusal> {
        self.0.act(at(ms), who, None, &Act::Say { text: text.into(), reply: None })
    }

    fn code(&mut self, ms: i64, who: &Who, text: &str) -> String {
        self.say(ms, who, text).map_or_else(|why| why.code, |_| "said".into())
    }

    fn act(&mut self, ms: i64, who: &Who, act: Act) -> Result<Done, Refusal> {
        self.0.act(at(ms), who, None, &act)
    }

    /// The room as another host finds it.
    fn restored(&self, all: &[Done]) -> Self {
        let mut rules = BTreeMap::new();
        let mut events = Vec::new();
        for write in all.iter().flat_map(|done| &done.writes) {
            match write {
                ChatWrite::Rule { name, body: Some(body) } => _ = rules.insert(name.clone(), body.clone()),
                ChatWrite::Rule { name, body: None } => _ = rules.remove(name),
                ChatWrite::Row { log: ChatLog::Live, row } => events.push(serde_json::from_str(&row.body).unwrap()),
                ChatWrite::Row { .. } => {}
            }
        }
        let (room, bad) = Room::restore(&rules.into_iter().collect::<Vec<_>>(), &events, 2);
        assert!(bad.is_empty(), "{bad:?}");
        Self(room)
    }
}

#[test]
fn ids_grow_whatever_the_clock_does_and_over_a_change_of_host() {
    let mut run = Run::new();
    let says = [(0, "ann"), (0, "bob"), (-5000, "eve"), (2000, "tom")];
    let mut all: Vec<_> = says.map(|(ms, name)| run.say(ms, &guest(name), "hi").unwrap()).into();
    assert!(all.windows(2).all(|pair| pair[0].id < pair[1].id));
    // The next host's clock is behind.
    let mut next = run.restored(&all);
    all.push(next.say(-60_000, &guest("bob"), "ho").unwrap());
    assert!(all[4].id > all[3].id);
    next.0.pass(EventId::first_at(at(100_000)));
    assert!(next.say(3000, &guest("bob"), "hm").unwrap().id > EventId::first_at(at(100_000)));
}

#[test]
fn what_is_sent_again_is_said_once_also_at_the_next_host() {
    let (mut run, ann) = (Run::new(), guest("ann"));
    let say = Act::Say { text: "hi".into(), reply: None };
    let first = run.0.act(at(0), &ann, Some("n1"), &say).unwrap();
    assert!(first.event.is_some());
    let again = run.0.act(at(1), &ann, Some("n1"), &say).unwrap();
    assert_eq!((again.id, again.event, again.writes.len()), (first.id, None, 0));
    assert_ne!(run.0.act(at(2), &guest("bob"), Some("n1"), &say).unwrap().id, first.id);
    let mut next = run.restored(std::slice::from_ref(&first));
    assert_eq!(next.0.act(at(3), &ann, Some("n1"), &say).unwrap().id, first.id);
    let long = "n".repeat(65);
    assert_eq!(run.0.act(at(4), &ann, Some(&long), &say).unwrap_err().code, "bad_nonce");
}

#[test]
fn one_person_writes_no_faster_than_is_allowed_and_is_told_when() {
    let (mut run, ann, moderator) = (Run::new(), guest("ann"), staff("mia", Role::Moderator));
    for _ in 0..5 {
        run.say(0, &ann, "x").unwrap();
    }
    let why = run.say(0, &ann, "x").unwrap_err();
    assert_eq!((why.code.as_str(), why.retry_ms), ("too_fast", Some(1500)));
    assert_eq!(run.code(1499, &ann, "x"), "too_fast");
    assert_eq!(run.code(1500, &ann, "x"), "said");
    assert_eq!(run.code(1500, &guest("bob"), "x"), "said");
    assert!((0..5).all(|_| run.say(0, &moderator, "x").is_ok()));
    // 20 in half a minute.
    let said = (2000..32_000).step_by(100).filter(|ms| run.say(*ms, &ann, "x").is_ok()).count();
    assert_eq!(said, 20);
}

#[test]
fn what_is_set_counts_for_all_but_moderators() {
    let (mut run, ann) = (Run::new(), guest("ann"));
    let (streamer, moderator) = (staff("sue", Role::Streamer), staff("mia", Role::Moderator));
    let set = |settings: Settings| Act::Set { settings };
    assert_eq!(run.act(0, &ann, set(Settings::default())).unwrap_err().code, "forbidden");
    let blocked = vec!["darn*".to_owned()];
    let strict = Settings { slow: 10, no_links: true, unique: true, blocked: blocked.clone(), ..Settings::default() };
    let done = run.act(0, &moderator, set(strict)).unwrap();
    // Whoever reads along is not told the words.
    let Some(Event::Room { settings, .. }) = &done.event else { panic!("{done:?}") };
    assert_eq!((settings.slow, settings.blocked.len()), (10, 0));
    assert_eq!(run.code(0, &ann, "see example.com"), "no_links");
    assert_eq!(run.code(0, &ann, "D\u{430}RNED"), "blocked");
    assert_eq!(run.code(0, &ann, "hello"), "said");
    let why = run.say(4000, &ann, "other").unwrap_err();
    assert_eq!((why.code.as_str(), why.retry_ms), ("slow", Some(6000)));
    assert_eq!(run.code(11_000, &ann, "HELLO!"), "duplicate");
    assert_eq!(run.code(31_000, &ann, "hello"), "said");
    assert_eq!(run.code(31_000, &streamer, "darn example.com"), "said");
    assert_eq!(run.code(31_000, &streamer, "darn example.com"), "said");
    let mut next = run.restored(&[done]);
    assert_eq!(next.0.known().settings.blocked, blocked);
    next.act(0, &moderator, set(Settings { tickets_only: true, emotes_only: true, ..Settings::default() })).unwrap();
    assert_eq!(next.code(0, &ann, ":hi:"), "tickets_only");
    let holder = staff("tom", Role::Ticket);
    assert_eq!(next.code(0, &holder, "hi"), "emotes_only");
    assert_eq!(next.code(0, &holder, ":hi:"), "said");
    let bad = set(Settings { slow: 3601, ..Settings::default() });
    assert_eq!(next.act(0, &streamer, bad).unwrap_err().code, "bad_time");
}

#[test]
fn bans_end_when_they_should_and_outlive_their_host() {
    let (mut run, ann, bob) = (Run::new(), guest("ann"), guest("bob"));
    let moderator = staff("mia", Role::Moderator);
    let ban = |seconds| Act::Ban { user: user("ann"), seconds, reason: "spam".into() };
    let mut all = vec![run.act(0, &moderator, ban(Some(60))).unwrap()];
    assert!(matches!(&all[0].event, Some(Event::Purge { user, .. }) if user.as_str() == "ann"));
    let why = run.say(10_000, &ann, "hi").unwrap_err();
    assert_eq!((why.code.as_str(), why.retry_ms, why.text.contains("spam")), ("timeout", Some(50_000), true));
    assert_eq!(run.code(60_000, &ann, "hi"), "said");
    all.push(run.act(60_000, &moderator, ban(None)).unwrap());
    let mut next = run.restored(&all);
    assert_eq!(next.code(1_000_000, &ann, "hi"), "banned");
    assert_eq!(next.act(0, &moderator, Act::Unban { user: user("bob") }).unwrap_err().code, "unknown");
    all.push(next.act(0, &moderator, Act::Unban { user: user("ann") }).unwrap());
    let mut next = next.restored(&all);
    assert_eq!(next.code(1_000_000, &ann, "hi"), "said");
    // By address, whoever it is, as IPv4 or within IPv6.
    let prefix = "203.0.113.9/24".parse().unwrap();
    all.push(next.act(0, &moderator, Act::BanAddress { prefix, reason: String::new() }).unwrap());
    let mut next = next.restored(&all);
    let mapped = Who { address: Some("::ffff:203.0.113.200".parse().unwrap()), ..guest("eve") };
    assert_eq!((next.code(0, &bob, "hi"), next.code(0, &mapped, "hi")), ("banned".into(), "banned".into()));
    let other = Who { address: Some("203.0.114.1".parse().unwrap()), ..guest("eve") };
    assert_eq!(next.code(0, &other, "hi"), "said");
    next.act(0, &moderator, Act::UnbanAddress { prefix }).unwrap();
    assert_eq!(next.code(0, &bob, "hi"), "said");
    assert_eq!(next.act(0, &moderator, ban(Some(0))).unwrap_err().code, "bad_time");
}

#[test]
fn only_those_moderate_who_may() {
    let (mut run, ann, bob) = (Run::new(), guest("ann"), guest("bob"));
    let streamer = staff("sue", Role::Streamer);
    let id = run.say(0, &ann, "hi").unwrap().id;
    assert_eq!(run.act(1, &bob, Act::Delete { message: id }).unwrap_err().code, "forbidden");
    // One's own.
    let done = run.act(2, &ann, Act::Delete { message: id }).unwrap();
    let mark = ChatWrite::Row { log: ChatLog::Marks, row: ChatRow { id, body: "{}".into() } };
    assert!(done.writes.contains(&mark), "{done:?}");
    // Who did it is for moderators to see.
    let audit = done.writes.iter().find_map(|write| match write {
        ChatWrite::Row { log: ChatLog::Staff, row } => serde_json::from_str::<Audit>(&row.body).ok(),
        _ => None,
    });
    assert_eq!(audit.unwrap().by, user("ann"));
    assert!(!serde_json::to_string(&done.event).unwrap().contains("ann"));
    let make = |on| Act::Moderator { user: user("bob"), on };
    assert_eq!(run.act(3, &staff("mia", Role::Moderator), make(true)).unwrap_err().code, "forbidden");
    let made = run.act(3, &streamer, make(true)).unwrap();
    assert_eq!(run.0.known().roles(&bob), [Role::Moderator]);
    run.act(4, &bob, Act::Purge { user: user("ann") }).unwrap();
    let mut next = run.restored(&[made]);
    assert!(next.act(5, &bob, Act::Purge { user: user("ann") }).is_ok());
    next.act(6, &streamer, make(false)).unwrap();
    assert_eq!(next.act(7, &bob, Act::Purge { user: user("ann") }).unwrap_err().code, "forbidden");
    assert_eq!(next.act(8, &streamer, Act::Delete { message: EventId::MAX }).unwrap_err().code, "unknown");
}

#[test]
fn what_cannot_be_read_of_the_rules_is_named_and_the_rest_counts() {
    let rules = [("ban/ann", "{"), ("settings", r#"{"slow":5}"#), ("newer/x", "1"), ("address/x", "{}")];
    let rules = rules.map(|(name, body)| (name.to_owned(), body.to_owned()));
    let (room, bad) = Room::restore(&rules, &[], 0);
    assert_eq!(bad, ["ban/ann", "address/x"]);
    assert_eq!(room.known().settings.slow, 5);
}

#[test]
fn a_crowd_is_remembered_within_bounds() {
    let mut run = Run::new();
    for n in 0..(AUTHORS + 10) {
        run.say(n as i64, &guest(&format!("g{n}")), "hi").unwrap();
    }
    assert!(run.0.authors.len() <= AUTHORS && run.0.recent.len() <= RECENT);
}

#[test]
fn messages_that_wait_are_told_when_a_moderator_lets_them_through() {
    let (mut run, alice, ann) = (Run::new(), staff("alice", Role::Streamer), guest("ann"));
    let settings = Settings { held: vec!["maybe*".into()], ..Settings::default() };
    let mut all = vec![run.act(0, &alice, Act::Set { settings }).unwrap()];
    let ask = |run: &mut Run, ms, text: &str| {
        let act = Act::Say { text: text.into(), reply: None };
        run.0.act(at(ms), &ann, Some(text), &act).unwrap()
    };
    let waits = ask(&mut run, 1000, "Maybe not");
    assert!(waits.held && waits.event.is_none() && waits.writes.len() == 1);
    all.push(waits.clone());
    // Again it is the same, and the streamer's own are not looked at.
    assert_eq!(ask(&mut run, 2000, "Maybe not"), Done { writes: Vec::new(), ..waits.clone() });
    all.push(run.say(3000, &alice, "maybe").unwrap());
    assert!(!all[2].held && !ask(&mut run, 9000, "certainly").held);
    all.push(ask(&mut run, 11_000, "maybe later"));
    // The next host has them still.
    let mut next = run.restored(&all);
    let judge = |message, show| Act::Judge { message, show };
    assert_eq!(next.act(20_000, &ann, judge(waits.id, true)).unwrap_err().code, "forbidden");
    let shown = next.act(20_000, &alice, judge(waits.id, true)).unwrap();
    let Some(Event::Message(message)) = &shown.event else { panic!("{shown:?}") };
    assert_eq!((&*message.text, &*message.name, message.id), ("Maybe not", "ANN", shown.id));
    assert!(shown.id > all[3].id);
    assert_eq!(next.act(21_000, &alice, judge(waits.id, true)).unwrap_err().code, "unknown");
    assert_eq!(ask(&mut next, 22_000, "Maybe not").id, shown.id);
    // Who is banned waits for nothing.
    let ban = Act::Ban { user: ann.user.clone(), seconds: None, reason: String::new() };
    all.extend([shown, next.act(30_000, &alice, ban).unwrap()]);
    assert_eq!(next.act(31_000, &alice, judge(all[3].id, false)).unwrap_err().code, "unknown");
    assert_eq!(run.restored(&all).act(32_000, &alice, judge(all[3].id, false)).unwrap_err().code, "unknown");
    let settings = Settings { hold_all: true, ..Settings::default() };
    next.act(40_000, &alice, Act::Set { settings }).unwrap();
    for n in 0..HELD_MAX {
        assert!(next.say(50_000, &guest(&format!("g{n}")), "hi").unwrap().held);
    }
    assert_eq!(next.code(50_000, &guest("tom"), "hi"), "full");
}

#[test]
fn emotes_have_pictures_until_they_are_taken_away() {
    let (mut run, alice) = (Run::new(), staff("alice", Role::Streamer));
    let picture: crate::chat::act::Picture = "0123456789abcdef0123456789abcdef.png".parse().unwrap();
    let emote = |name: &str, on: bool| Act::Emote { name: name.into(), picture: on.then(|| picture.clone()) };
    assert_eq!(run.act(0, &staff("bob", Role::Moderator), emote("wave", true)).unwrap_err().code, "forbidden");
    for bad in ["", "a b", ":a:", "../x", &"x".repeat(26)] {
        assert_eq!(run.act(0, &alice, emote(bad, true)).unwrap_err().code, "bad_name", "{bad}");
    }
    assert_eq!(run.act(0, &alice, emote("wave", false)).unwrap_err().code, "unknown");
    let mut all =
        vec![run.act(0, &alice, emote("wave", true)).unwrap(), run.act(1, &alice, emote("hi", true)).unwrap()];
    let Some(Event::Emote { name, picture: Some(told), .. }) = &all[1].event else { panic!("{all:?}") };
    assert_eq!((&**name, told), ("hi", &picture));
    assert_eq!(run.0.known().emotes.keys().collect::<Vec<_>>(), ["hi", "wave"]);
    all.push(run.act(2, &alice, emote("hi", false)).unwrap());
    assert_eq!(run.restored(&all).0.known().emotes.keys().collect::<Vec<_>>(), ["wave"]);
    for bad in ["", "x.png", "0123456789abcdef0123456789abcdef.svg", "0123456789abcdef0123456789abcde/.png"] {
        assert!(bad.parse::<crate::chat::act::Picture>().is_err(), "{bad}");
    }
}
