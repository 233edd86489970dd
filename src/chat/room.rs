//! Who may say what in a room, and what becomes of it: decided at the room's host alone. Pure.
//!
//! What somebody does enters ([`Room::act`]), with the time; what everybody is told and what is to be stored leaves, or words for
//! whoever may not. Nothing here waits, so one message is judged after the other and ids grow.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::Duration,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    act::{Act, Refusal, Settings, Who},
    event::{Event, Message, Role},
    known::{Known, Rule},
    text,
};
use crate::{
    id::{EventId, UserId},
    store::{ChatLog, ChatRow, ChatWrite},
    time::UnixMs,
};

/// Messages that somebody may write at once, and how often one more: 20 in half a minute; moderators and bots five times as many.
const BURST: u64 = 5;
const EACH: Duration = Duration::from_millis(1500);
const STAFF_EACH: Duration = Duration::from_millis(300);
/// People whose last messages are remembered; the one that was quiet longest is forgotten.
const AUTHORS: usize = 50_000;
/// A message that says the same within this is a duplicate, where that is looked at.
const SAME_WITHIN: Duration = Duration::from_secs(30);
/// Messages that are remembered for being sent again, and for who wrote what is deleted: a minute and a half of a room in which
/// 200 are written each second.
const RECENT: usize = 20_000;
/// Before anything.
const NEVER: UnixMs = UnixMs(i64::MIN / 2);
/// The longest timeout: two weeks. A ban has no end.
const TIMEOUT_MAX: u32 = 14 * 86_400;
const SLOW_MAX: u32 = 3600;
/// A nonce is short, and words for a ban.
const NONCE_MAX: usize = 64;
const REASON_MAX: usize = 200;
const BLOCKED_MAX: usize = 500;
/// Messages that wait for a moderator, emotes, and letters of an emote's name.
const HELD_MAX: usize = 200;
const EMOTES_MAX: usize = 200;
const EMOTE_LETTERS: usize = 25;

/// Somebody, or an address, is banned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = ChatBan)]
struct Ban {
    /// Milliseconds since 1970; nothing: it has no end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<i64>)]
    until: Option<UnixMs>,
    #[serde(default)]
    #[schema(required)]
    reason: String,
    by: UserId,
}

impl Ban {
    fn counts(&self, now: UnixMs) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

/// What was decided.
#[derive(Debug, Clone, PartialEq)]
pub struct Done {
    /// The event that it is known by: an earlier one where it was done before.
    pub id: EventId,
    /// It waits for a moderator.
    pub held: bool,
    /// To be told, once the writes are made; nothing where it was done before.
    pub event: Option<Event>,
    pub writes: Vec<ChatWrite>,
}

/// What a user has said last.
#[derive(Debug)]
struct Author {
    /// When the messages that were said so far are paid for.
    paid: UnixMs,
    last: UnixMs,
    /// Of the newest message: what it looks like.
    said: String,
}

impl Author {
    /// Takes one of so many requests in a time, some of them at once.
    fn pay(&mut self, now: UnixMs, each: Duration) -> Result<(), Refusal> {
        let each_ms = each.as_millis() as i64;
        let paid = UnixMs(self.paid.0.clamp(now.0 - each_ms * BURST as i64, now.0) + each_ms);
        if paid > now {
            return Err(Refusal::new("too_fast", "you write too fast").again_in(paid.since(now)));
        }
        self.paid = paid;
        Ok(())
    }
}

/// One stream's room. See the module.
#[derive(Debug)]
pub struct Room {
    known: Known,
    users: BTreeMap<UserId, Ban>,
    addresses: Vec<(IpNet, Ban)>,
    /// Messages that wait for a moderator.
    held: BTreeMap<EventId, Message>,
    authors: HashMap<UserId, Author>,
    /// The newest messages: their ids, who said them and under which nonce.
    recent: VecDeque<(EventId, UserId, Option<String>)>,
    /// The same by nonce.
    nonces: HashMap<(UserId, String), EventId>,
    last: EventId,
    /// Of the ids that this host gives.
    tag: u16,
}

/// Names of rules.
const BAN: &str = "ban/";
const ADDRESS: &str = "address/";
const HELD: &str = "held/";

impl Room {
    /// A room as it was stored. `events` are the newest ones, oldest first; `tag` is of the ids that are given. Gives what of the
    /// rules cannot be read.
    pub fn restore(rules: &[(String, String)], events: &[Event], tag: u16) -> (Self, Vec<String>) {
        let mut room = Self {
            known: Known::default(),
            users: BTreeMap::new(),
            addresses: Vec::new(),
            held: BTreeMap::new(),
            authors: HashMap::new(),
            recent: VecDeque::new(),
            nonces: HashMap::new(),
            last: EventId(0),
            tag,
        };
        let bad = rules.iter().filter(|(name, body)| room.rule(name, body).is_none()).map(|(name, _)| name.clone());
        let bad = bad.collect();
        events.iter().for_each(|event| room.note(event));
        (room, bad)
    }

    fn rule(&mut self, name: &str, body: &str) -> Option<()> {
        if let Some(user) = name.strip_prefix(BAN) {
            self.users.insert(user.parse().ok()?, serde_json::from_str(body).ok()?);
        } else if let Some(prefix) = name.strip_prefix(ADDRESS) {
            self.addresses.push((prefix.parse().ok()?, serde_json::from_str(body).ok()?));
        } else if let Some(id) = name.strip_prefix(HELD) {
            let message: Message = serde_json::from_str(body).ok()?;
            self.hold(id.parse().ok()?, message);
        } else {
            self.known.learn(name, body)?;
        }
        // Others are of a newer version.
        Some(())
    }

    /// Keeps a message until a moderator has judged it.
    fn hold(&mut self, id: EventId, message: Message) {
        self.last = self.last.max(id);
        if let Some(nonce) = &message.nonce {
            self.nonces.insert((message.user.clone(), nonce.clone()), id);
        }
        self.held.insert(id, message);
    }

    /// Lets go of a message that waits.
    fn unhold(&mut self, id: EventId) -> Option<Message> {
        let message = self.held.remove(&id)?;
        if let Some(nonce) = &message.nonce {
            self.nonces.remove(&(message.user.clone(), nonce.clone()));
        }
        Some(message)
    }

    /// Takes note of an event that another host has made.
    pub fn note(&mut self, event: &Event) {
        self.last = self.last.max(event.id());
        match event {
            Event::Message(message) => {
                let at = self.recent.partition_point(|(id, ..)| *id < message.id);
                if self.recent.get(at).is_some_and(|(id, ..)| *id == message.id) {
                    return;
                }
                self.recent.insert(at, (message.id, message.user.clone(), message.nonce.clone()));
                if let Some(nonce) = &message.nonce {
                    self.nonces.insert((message.user.clone(), nonce.clone()), message.id);
                }
                if self.recent.len() > RECENT {
                    self.drop_recent(0);
                }
            }
            // Words that are not for everybody are in the rules.
            Event::Room { settings, .. } => {
                let Settings { blocked, held, .. } = std::mem::take(&mut self.known.settings);
                self.known.settings = Settings { blocked, held, ..settings.clone() };
            }
            Event::Emote { name, picture, .. } => _ = self.known.emote(name, picture.clone()),
            Event::Delete { .. } | Event::Purge { .. } => {}
        }
    }

    /// A message was not stored after all: sent again it is another one.
    pub fn forget(&mut self, id: EventId) {
        self.unhold(id);
        if let Ok(at) = self.recent.binary_search_by_key(&id, |(id, ..)| *id) {
            self.drop_recent(at);
        }
    }

    fn drop_recent(&mut self, at: usize) {
        if let Some((_, user, Some(nonce))) = self.recent.remove(at) {
            self.nonces.remove(&(user, nonce));
        }
    }

    /// Ids that were given elsewhere: those that follow are greater.
    pub fn pass(&mut self, id: EventId) {
        self.last = self.last.max(id);
    }

    pub fn last(&self) -> EventId {
        self.last
    }

    /// What is known from elsewhere, where the rules could not be read.
    pub fn assume(&mut self, known: Known) {
        self.known = known;
    }

    /// What viewers' nodes must know.
    pub fn known(&self) -> &Known {
        &self.known
    }

    /// Judges what somebody does. `nonce` names it: the same again is done once.
    ///
    /// # Errors
    /// It is not allowed, not possible, or not yet.
    pub fn act(&mut self, now: UnixMs, who: &Who, nonce: Option<&str>, act: &Act) -> Result<Done, Refusal> {
        if nonce.is_some_and(|nonce| nonce.is_empty() || nonce.len() > NONCE_MAX) {
            return Err(Refusal::new("bad_nonce", "a nonce has 1 to 64 letters"));
        }
        let roles = self.known.roles(who);
        match act {
            Act::Say { text, reply } => self.say(now, who, roles, nonce, text, *reply),
            _ => self.moderate(now, who, &roles, act),
        }
    }

    fn next(&mut self, now: UnixMs) -> EventId {
        self.last = self.last.next(now, self.tag);
        self.last
    }

    fn say(
        &mut self,
        now: UnixMs,
        who: &Who,
        roles: Vec<Role>,
        nonce: Option<&str>,
        text: &str,
        reply: Option<EventId>,
    ) -> Result<Done, Refusal> {
        if let Some(nonce) = nonce
            && let Some(id) = self.nonces.get(&(who.user.clone(), nonce.to_owned()))
        {
            return Ok(Done { id: *id, held: self.held.contains_key(id), event: None, writes: Vec::new() });
        }
        // What writes for the streamer is his to stop.
        let is_staff = is_staff(&roles) || roles.contains(&Role::Bot);
        if !is_staff {
            self.admit(now, who, &roles)?;
        }
        let text = text::message(text).map_err(|why| Refusal::new(code(why), why.to_string()))?;
        if !is_staff {
            self.allow(&text)?;
        }
        let looks = text::looks(&text);
        self.pace(now, &who.user, is_staff, &looks)?;
        let id = self.next(now);
        let message = Message {
            id,
            user: who.user.clone(),
            name: who.name.clone(),
            roles,
            text,
            reply: reply.filter(|reply| *reply < id),
            nonce: nonce.map(str::to_owned),
        };
        if !is_staff && (self.known.settings.hold_all || text::has_blocked(&message.text, &self.known.settings.held)) {
            if self.held.len() >= HELD_MAX {
                let full = Refusal::new("full", "as many messages wait for a moderator as may");
                return Err(full.again_in(SAME_WITHIN));
            }
            let rule = (format!("{HELD}{id}"), Some(json(&message)));
            self.hold(id, message);
            return Ok(Done { id, held: true, event: None, writes: vec![write(rule)] });
        }
        let event = Event::Message(message);
        self.note(&event);
        Ok(done(event, Vec::new()))
    }

    /// Whether somebody may say anything at all.
    fn admit(&self, now: UnixMs, who: &Who, roles: &[Role]) -> Result<(), Refusal> {
        let address = who.address.map(|address| address.to_canonical());
        let of_user = self.users.get(&who.user).into_iter();
        let of_address = self.addresses.iter().filter(|(prefix, _)| address.is_some_and(|it| prefix.contains(&it)));
        let bans = of_user.chain(of_address.map(|(_, ban)| ban)).filter(|ban| ban.counts(now));
        // The one that lasts longest.
        if let Some(ban) = bans.max_by_key(|ban| ban.until.unwrap_or(UnixMs(i64::MAX))) {
            let reason = if ban.reason.is_empty() { String::new() } else { format!(": {}", ban.reason) };
            return Err(match ban.until {
                Some(until) => {
                    Refusal::new("timeout", format!("you may not write for a while{reason}")).again_in(until.since(now))
                }
                None => Refusal::new("banned", format!("you may not write here{reason}")),
            });
        }
        if self.known.settings.tickets_only && !roles.contains(&Role::Ticket) {
            return Err(Refusal::new("tickets_only", "only those who hold a ticket may write now"));
        }
        Ok(())
    }

    /// Whether this may be said by anyone.
    fn allow(&self, text: &str) -> Result<(), Refusal> {
        if self.known.settings.emotes_only && !text::is_emotes(text) {
            return Err(Refusal::new("emotes_only", "only emotes and pictures are sent now"));
        }
        if self.known.settings.no_links && text::has_link(text) {
            return Err(Refusal::new("no_links", "links are off"));
        }
        if text::has_blocked(text, &self.known.settings.blocked) {
            return Err(Refusal::new("blocked", "there is a word in it that is not wanted here"));
        }
        Ok(())
    }

    /// Whether somebody may say something already.
    fn pace(&mut self, now: UnixMs, user: &UserId, is_staff: bool, looks: &str) -> Result<(), Refusal> {
        let (each, slow) = match is_staff {
            true => (STAFF_EACH, Duration::ZERO),
            false => (EACH, Duration::from_secs(self.known.settings.slow.into())),
        };
        let unique = self.known.settings.unique && !is_staff;
        let author = self.author(now, user);
        if unique && author.said == looks && now.since(author.last) < SAME_WITHIN {
            return Err(
                Refusal::new("duplicate", "you have just said that").again_in(SAME_WITHIN - now.since(author.last))
            );
        }
        if author.last != NEVER && now.since(author.last) < slow {
            return Err(Refusal::new("slow", "slow mode is on").again_in(slow - now.since(author.last)));
        }
        author.pay(now, each)?;
        (author.last, author.said) = (now, looks.to_owned());
        Ok(())
    }

    /// What is remembered of somebody.
    fn author(&mut self, now: UnixMs, user: &UserId) -> &mut Author {
        if self.authors.len() >= AUTHORS && !self.authors.contains_key(user) {
            self.forget_quiet(now);
        }
        let new = || Author { paid: NEVER, last: NEVER, said: String::new() };
        self.authors.entry(user.clone()).or_insert_with(new)
    }

    /// Forgets who has been quiet long enough for it to make no difference; if nobody has, everybody.
    fn forget_quiet(&mut self, now: UnixMs) {
        let long = Duration::from_secs(self.known.settings.slow.into()).max(SAME_WITHIN);
        self.authors.retain(|_, author| now.since(author.last) < long);
        if self.authors.len() >= AUTHORS {
            self.authors.clear();
        }
    }

    fn moderate(&mut self, now: UnixMs, who: &Who, roles: &[Role], act: &Act) -> Result<Done, Refusal> {
        let is_own = |message: &EventId| self.recent.iter().any(|(id, user, _)| id == message && *user == who.user);
        let may = match act {
            Act::Delete { message } => is_staff(roles) || is_own(message),
            Act::Moderator { .. } | Act::Emote { .. } => roles.contains(&Role::Streamer),
            _ => is_staff(roles),
        };
        if !may {
            return Err(Refusal::new("forbidden", "this is for moderators"));
        }
        if matches!(act, Act::Delete { .. }) && !is_staff(roles) {
            self.author(now, &who.user).pay(now, EACH)?;
        }
        let id = self.next(now);
        let rule = |name: String, body: Option<String>| write((name, body));
        let reason = |reason: &str| text::message(reason).unwrap_or_default().chars().take(REASON_MAX).collect();
        let (event, mut writes) = match act {
            Act::Say { .. } => unreachable!("said before"),
            Act::Delete { message } if *message >= id => return Err(unknown()),
            Act::Delete { message } => {
                let mark = ChatRow { id: *message, body: "{}".into() };
                let mark = ChatWrite::Row { log: ChatLog::Marks, row: mark };
                (Some(Event::Delete { id, message: *message }), vec![mark])
            }
            Act::Purge { user } => {
                let mut writes = self.let_go(user);
                writes.push(purged(user, id));
                (Some(Event::Purge { id, user: user.clone() }), writes)
            }
            Act::Ban { user, seconds, reason: why } => {
                if seconds.is_some_and(|seconds| !(1..=TIMEOUT_MAX).contains(&seconds)) {
                    return Err(Refusal::new("bad_time", "a timeout lasts 1 s to 14 days"));
                }
                if *user == who.user {
                    return Err(Refusal::new("bad_user", "you cannot ban yourself"));
                }
                let until = seconds.map(|seconds| UnixMs(now.0 + i64::from(seconds) * 1000));
                let ban = Ban { until, reason: reason(why), by: who.user.clone() };
                let ban_of = rule(format!("{BAN}{user}"), Some(json(&ban)));
                self.users.insert(user.clone(), ban);
                let mut writes = self.let_go(user);
                writes.extend([ban_of, purged(user, id)]);
                // What was said last is the cause of it.
                (Some(Event::Purge { id, user: user.clone() }), writes)
            }
            Act::BanAddress { prefix, reason: why } => {
                let prefix = prefix.trunc();
                let ban = Ban { until: None, reason: reason(why), by: who.user.clone() };
                let ban_of = rule(format!("{ADDRESS}{prefix}"), Some(json(&ban)));
                self.addresses.retain(|(known, _)| *known != prefix);
                self.addresses.push((prefix, ban));
                (None, vec![ban_of])
            }
            Act::Unban { user } => {
                self.users.remove(user).ok_or_else(unknown)?;
                (None, vec![rule(format!("{BAN}{user}"), None)])
            }
            Act::UnbanAddress { prefix } => {
                let (prefix, before) = (prefix.trunc(), self.addresses.len());
                self.addresses.retain(|(known, _)| *known != prefix);
                if self.addresses.len() == before {
                    return Err(unknown());
                }
                (None, vec![rule(format!("{ADDRESS}{prefix}"), None)])
            }
            Act::Moderator { user, on } => (None, vec![write(self.known.moderator(user, *on))]),
            Act::Judge { message, show } => {
                let held = self.unhold(*message).ok_or_else(unknown)?;
                let event = show.then_some(Event::Message(Message { id, ..held }));
                event.iter().for_each(|event| self.note(event));
                (event, vec![rule(format!("{HELD}{message}"), None)])
            }
            Act::Emote { name, picture } => {
                if !text::is_emote_name(name) || name.len() > EMOTE_LETTERS {
                    return Err(Refusal::new("bad_name", "an emote's name is 1 to 25 of a-z, A-Z, 0-9, '_', '+', '-'"));
                }
                let is_new = !self.known.emotes.contains_key(name);
                match picture {
                    None if is_new => return Err(unknown()),
                    Some(_) if is_new && self.known.emotes.len() >= EMOTES_MAX => {
                        return Err(Refusal::new("too_many", "a stream has at most 200 emotes"));
                    }
                    _ => {}
                }
                let rule = self.known.emote(name, picture.clone());
                (Some(Event::Emote { id, name: name.clone(), picture: picture.clone() }), vec![write(rule)])
            }
            Act::Set { settings } => {
                if settings.slow > SLOW_MAX {
                    return Err(Refusal::new("bad_time", "slow mode is at most an hour"));
                }
                for words in [&settings.blocked, &settings.held] {
                    let is_long = words.iter().any(|word| word.chars().count() > text::NAME_MAX * 2);
                    if words.len() > BLOCKED_MAX || is_long {
                        return Err(Refusal::new("too_many", "at most 500 words of 50 letters are blocked, or held"));
                    }
                }
                let event = Event::Room { id, settings: settings.public() };
                (Some(event), vec![write(self.known.set(settings.clone()))])
            }
        };
        let audit = Audit { at: now, by: who.user.clone(), name: who.name.clone(), act: act.clone() };
        writes.push(ChatWrite::Row { log: ChatLog::Staff, row: ChatRow { id, body: json(&audit) } });
        Ok(match event {
            Some(event) => done(event, writes),
            None => Done { id, held: false, event: None, writes },
        })
    }

    /// Lets go of what waits of a user.
    fn let_go(&mut self, user: &UserId) -> Vec<ChatWrite> {
        let of = self.held.iter().filter(|(_, message)| message.user == *user).map(|(id, _)| *id).collect::<Vec<_>>();
        let let_go = |id| {
            self.unhold(id);
            write((format!("{HELD}{id}"), None))
        };
        of.into_iter().map(let_go).collect()
    }
}

/// What moderators are told of the rules.
#[derive(Debug, Default, Serialize, ToSchema)]
#[schema(as = ChatRules)]
pub struct Ruled {
    settings: Settings,
    moderators: Vec<UserId>,
    /// By user.
    bans: BTreeMap<UserId, Ban>,
    /// By addresses, such as `192.0.2.0/24`.
    #[schema(value_type = BTreeMap<String, Ban>)]
    addresses: BTreeMap<IpNet, Ban>,
    /// Messages that wait, oldest first.
    held: Vec<Message>,
}

impl Ruled {
    pub fn of(rules: &[(String, String)], now: UnixMs) -> Self {
        let (Room { known, users, addresses, held, .. }, _) = Room::restore(rules, &[], 0);
        let counts = |ban: &Ban| ban.counts(now);
        Self {
            settings: known.settings,
            moderators: known.moderators,
            bans: users.into_iter().filter(|(_, ban)| counts(ban)).collect(),
            addresses: addresses.into_iter().filter(|(_, ban)| counts(ban)).collect(),
            held: held.into_values().collect(),
        }
    }
}

/// A line of the audit log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Audit {
    pub at: UnixMs,
    pub by: UserId,
    pub name: String,
    pub act: Act,
}

/// Names the rule by which nothing that a user said before an event is shown.
pub const PURGED: &str = "purged/";

fn purged(user: &UserId, id: EventId) -> ChatWrite {
    ChatWrite::Rule { name: format!("{PURGED}{user}"), body: Some(json(&id)) }
}

fn done(event: Event, mut writes: Vec<ChatWrite>) -> Done {
    let row = ChatRow { id: event.id(), body: json(&event) };
    writes.push(ChatWrite::Row { log: ChatLog::Live, row });
    Done { id: event.id(), held: false, event: Some(event), writes }
}

fn write((name, body): Rule) -> ChatWrite {
    ChatWrite::Rule { name, body }
}

/// Whether these roles moderate.
pub fn is_staff(roles: &[Role]) -> bool {
    roles.contains(&Role::Streamer) || roles.contains(&Role::Moderator)
}

fn unknown() -> Refusal {
    Refusal::new("unknown", "there is no such thing")
}

fn code(why: text::Unfit) -> &'static str {
    match why {
        text::Unfit::Empty => "empty",
        text::Unfit::Long => "too_long",
        text::Unfit::Reserved => "reserved",
    }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("plain data")
}

#[cfg(test)]
#[path = "room_tests.rs"]
mod tests;
