//! A simulated engine under random schedules: arrivals, cancellations, preemptions, evictions, blocks from disk and faults. Pages hold
//! numbers that follow from tokens and forms as a model's do, so that a wrong page is a wrong text. `FARTHING_SCHEDULES=N` tries N.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::Duration;

use farthing_engine::BACKGROUND;
use farthing_engine::queue::Queue;
use farthing_engine::scheduler::{BlockLoad, Bounds, Id, NewRequest, Scheduler};
use farthing_engine::store::{Key, root};

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed(self.0)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }
}

fn mixed(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What a position's entry is: it follows from all before it, its token and its form.
fn entry(before: u64, token: u32, expanded: bool) -> u64 {
    mixed(before ^ mixed(u64::from(token) * 2 + u64::from(expanded) + 1))
}

/// The model: the token after an entry. Two tokens only, so that beginnings are often the same.
fn next_token(entry: u64) -> u32 {
    (entry >> 17) as u32 % 2
}

fn expanded(bounds: &Bounds, prompt: usize, position: usize) -> bool {
    bounds.form_block.is_some_and(|block| position < (prompt - 1) / block * block)
}

/// The text of a request that is alone in the world.
fn alone(bounds: &Bounds, prompt: &[u32], wanted: usize) -> Vec<u32> {
    let mut tokens = prompt.to_vec();
    let mut at = 7;
    let mut position = 0;
    while tokens.len() < prompt.len() + wanted {
        while position < tokens.len() {
            at = entry(at, tokens[position], expanded(bounds, prompt.len(), position));
            position += 1;
        }
        tokens.push(next_token(at));
    }
    tokens.split_off(prompt.len())
}

struct Client {
    prompt: Vec<u32>,
    wanted: usize,
    text: Vec<u32>,
    /// What the cache was said to have of its prompt, until its first part.
    cached: Option<usize>,
    /// Times it was told that it begins, and where it must compute everything.
    begun: usize,
    whole: bool,
    background: bool,
}

struct World {
    random: Random,
    bounds: Bounds,
    scheduler: Scheduler,
    queue: Queue,
    /// What pages hold.
    pages: Vec<Vec<u64>>,
    disk: HashMap<Key, Vec<u64>>,
    /// Blocks on their way.
    restores: VecDeque<(Id, BlockLoad)>,
    clients: HashMap<Id, Client>,
    /// Tokens that are chosen but not pushed yet: a constraint thinks about them.
    late: BTreeMap<Id, u32>,
    next_id: Id,
    now: u64,
    seen: Seen,
}

/// What happened, to know that the test tests something.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    finished: usize,
    preempted: usize,
    shared: usize,
    copied: usize,
    restored: usize,
    missed: usize,
    evicted: u64,
    cancelled: usize,
    refused: usize,
    displaced: usize,
    expired: usize,
    overdue: usize,
    failed: usize,
    /// Requests whose first part began where the cache ended, as was said.
    told: usize,
    /// Tokens that came some steps after their logits.
    late: usize,
    /// Parts of requests in the background.
    background: usize,
    steps: usize,
}

impl World {
    fn new(seed: u64) -> World {
        let mut random = Random(seed);
        let page = 4;
        let context = page * (2 + random.below(8)) - random.below(page);
        let pages = context.div_ceil(page) + random.below(20);
        let form_block = if random.chance(50) { Some(8) } else { None };
        let bounds = Bounds { page, form_block, running: 1 + random.below(6), context };
        let queue = Queue::new(1 + random.below(8), bounds.running);
        World {
            random,
            bounds,
            scheduler: Scheduler::new(bounds, pages),
            queue,
            pages: vec![vec![0; page]; pages],
            disk: HashMap::new(),
            restores: VecDeque::new(),
            clients: HashMap::new(),
            late: BTreeMap::new(),
            next_id: 0,
            now: 0,
            seen: Seen::default(),
        }
    }

    fn arrive(&mut self) {
        let r = &mut self.random;
        let len = 1 + r.below(self.bounds.context);
        // Few beginnings: all zeros but for a few places.
        let mut prompt = vec![0; len];
        for _ in 0..r.below(3) {
            let at = r.below(len);
            prompt[at] = 1;
        }
        // The last token that is chosen is not read, so it needs no place.
        let wanted = 1 + r.below((self.bounds.context - len).min(12) + 1);
        let deadline = |r: &mut Random, now: u64| r.chance(10).then(|| Duration::from_secs(now + r.below(30) as u64));
        let (account, whole) = (r.below(3) as u64, r.chance(10));
        let arrival = NewRequest {
            prompt: prompt.clone(),
            root: root(&[0; 32], &[account as u8 / 2]),
            account,
            priority: if r.chance(25) { BACKGROUND } else { r.below(3) as i8 - 1 },
            whole,
            wait_until: deadline(r, self.now),
            end_by: deadline(r, self.now),
        };
        let id = self.next_id;
        self.next_id += 1;
        let background = arrival.priority == BACKGROUND;
        if let Ok(displaced) = self.queue.enter(id, account, background) {
            if let Some(displaced) = displaced {
                self.scheduler.leave(displaced);
                self.gone(displaced);
                self.seen.displaced += 1;
            }
            self.scheduler.arrive(id, arrival);
            self.clients
                .insert(id, Client { prompt, wanted, text: Vec::new(), cached: None, begun: 0, whole, background });
        } else {
            self.seen.refused += 1;
        }
    }

    fn restore(&mut self) {
        let Some((id, BlockLoad { key, page })) = self.restores.pop_front() else { return };
        // A block may have gone from disk meanwhile, or be damaged: then it is a miss.
        let block = self.disk.get(&key).filter(|_| !self.random.chance(15)).cloned();
        let came = block.is_some();
        let wanted = self.scheduler.sequence(id).is_some();
        if let Some(block) = block.filter(|_| wanted) {
            self.pages[page as usize] = block;
        }
        if !self.scheduler.loaded(id, came) {
            self.restores.retain(|(who, _)| *who != id);
        }
        self.seen.restored += usize::from(came && wanted);
        self.seen.missed += usize::from(!came);
    }

    fn gone(&mut self, id: Id) {
        self.clients.remove(&id).expect("a request ends once");
        self.queue.leave(id);
        self.late.remove(&id);
        self.restores.retain(|(who, _)| *who != id);
    }

    fn step(&mut self, budget: usize) {
        self.now += 1;
        self.seen.steps += 1;
        let disk = &self.disk;
        let now = Duration::from_secs(self.now);
        let step = self.scheduler.step(now, budget, &mut |key| disk.contains_key(key));
        self.scheduler.check();
        for &id in step.expired.iter().chain(&step.overdue) {
            self.gone(id);
        }
        self.scheduler.running().for_each(|id| self.queue.runs(id, true));
        step.preempted.iter().for_each(|&id| self.queue.runs(id, false));
        assert_eq!(self.queue.load(), self.scheduler.load(), "those who submit see what the schedule has");
        (self.seen.expired, self.seen.overdue) =
            (self.seen.expired + step.expired.len(), self.seen.overdue + step.overdue.len());
        for begun in &step.admitted {
            let client = self.clients.get_mut(&begun.id).expect("those who begin are there");
            client.begun += 1;
            client.cached = Some(begun.cached);
            assert_eq!(client.begun, 1);
            assert!(begun.cached < client.prompt.len() && !(client.whole && begun.cached > 0));
            assert!(begun.differs_at.is_none_or(|at| at >= begun.cached && at < client.prompt.len()));
            self.seen.shared += usize::from(begun.cached > 0);
        }
        for &id in &step.preempted {
            self.restores.retain(|(who, _)| *who != id);
        }
        self.seen.preempted += step.preempted.len();
        for &(from, to) in &step.copies {
            self.pages[to as usize] = self.pages[from as usize].clone();
        }
        self.seen.copied += step.copies.len();
        for (id, restores) in &step.loads {
            self.restores.extend(restores.iter().map(|&restore| (*id, restore)));
        }
        let read: usize = step.chunks.iter().filter(|p| p.len > 1).map(|p| p.len).sum();
        assert!(read <= budget, "{read} tokens of prompts where {budget} were allowed");
        let rests = |id: &Id| self.clients[id].background && self.clients.values().any(|client| !client.background);
        assert!(!step.chunks.iter().any(|part| rests(&part.id)), "the background rests while others are there");
        self.seen.background += step.chunks.iter().filter(|part| self.clients[&part.id].background).count();
        self.forward(&step.chunks);
        self.seen.evicted = self.scheduler.pages().evicted();
    }

    fn forward(&mut self, parts: &[farthing_engine::scheduler::Chunk]) {
        let mut written = HashSet::new();
        let mut who = HashSet::new();
        for part in parts {
            assert!(who.insert(part.id), "one part a request");
            let client = self.clients.get_mut(&part.id).expect("parts are of those who are there");
            // What was not restored, or went while it waited again, is computed: never more is found than was said.
            if let Some(cached) = client.cached.take() {
                assert!(part.position <= cached || self.seen.preempted > 0, "{} of {cached}", part.position);
                self.seen.told += usize::from(part.position == cached && cached > 0);
            }
            let client = &self.clients[&part.id];
            let (tokens, pages) = self.scheduler.sequence(part.id).expect("parts are of those who run");
            assert!(part.position + part.len <= tokens.len());
            assert_eq!(part.logits, part.position + part.len == tokens.len());
            // What it reads must be its own past; what it writes nobody else's.
            let page = self.bounds.page;
            for position in part.position..part.position + part.len {
                let before = match position.checked_sub(1) {
                    None => 7,
                    Some(p) => self.pages[pages[p / page] as usize][p % page],
                };
                let place = (pages[position / page], position % page);
                assert!(written.insert(place), "a place is written once a step");
                let form = expanded(&self.bounds, client.prompt.len(), position);
                self.pages[place.0 as usize][place.1] = entry(before, tokens[position], form);
            }
            let mut truth = 7;
            for position in 0..part.position + part.len {
                truth = entry(truth, tokens[position], expanded(&self.bounds, client.prompt.len(), position));
                let there = self.pages[pages[position / page] as usize][position % page];
                assert_eq!(there, truth, "position {position} of request {}", part.id);
            }
        }
        // A fault takes all that were in the batch.
        if self.random.chance(1) {
            for part in parts {
                self.scheduler.leave(part.id);
                self.gone(part.id);
                self.seen.failed += 1;
            }
            return;
        }
        for part in parts {
            for block in self.scheduler.computed(part.id, part.len) {
                if self.random.chance(70) {
                    self.disk.insert(block.key, self.pages[block.page as usize].clone());
                }
            }
            if part.logits {
                self.choose(part.id, part.position + part.len - 1);
            }
        }
    }

    fn choose(&mut self, id: Id, last: usize) {
        let page = self.bounds.page;
        let (_, pages) = self.scheduler.sequence(id).expect("it was just computed");
        let token = next_token(self.pages[pages[last / page] as usize][last % page]);
        // One that had to give way while its token was late comes to the same token again.
        assert!(self.late.get(&id).is_none_or(|late| *late == token));
        if id.is_multiple_of(3) && self.random.chance(40) {
            self.late.insert(id, token);
        } else {
            self.late.remove(&id);
            self.took(id, token);
        }
    }

    /// Late tokens of those who still wait for them.
    fn catch_up(&mut self) {
        for (id, token) in self.late.clone() {
            if self.scheduler.awaits(id) && self.random.chance(50) {
                self.late.remove(&id);
                self.seen.late += 1;
                self.took(id, token);
            }
        }
    }

    fn took(&mut self, id: Id, token: u32) {
        assert!(self.scheduler.awaits(id));
        let client = self.clients.get_mut(&id).expect("it is there");
        client.text.push(token);
        if client.text.len() == client.wanted {
            assert_eq!(client.text, alone(&self.bounds, &client.prompt, client.wanted), "request {id}");
            self.scheduler.leave(id);
            self.gone(id);
            self.seen.finished += 1;
        } else {
            self.scheduler.push(id, &[token]);
        }
    }

    fn storm(&mut self) {
        for _ in 0..20 + self.random.below(60) {
            match self.random.below(10) {
                0..=3 => self.arrive(),
                4 => {
                    let mut ids: Vec<Id> = self.clients.keys().copied().collect();
                    ids.sort_unstable();
                    if !ids.is_empty() && self.random.chance(40) {
                        let id = ids[self.random.below(ids.len())];
                        self.scheduler.leave(id);
                        self.gone(id);
                        self.seen.cancelled += 1;
                    }
                }
                5 => {
                    self.restore();
                    self.catch_up();
                }
                6 if self.random.chance(10) => self.disk.clear(),
                _ => {
                    let budget = 1 + self.random.below(24);
                    self.step(budget);
                }
            }
            self.scheduler.check();
        }
        // Nobody comes any more: all that is there is finished, in bounded time, and every page is free.
        for _ in 0..5000 {
            if self.scheduler.is_idle() {
                break;
            }
            self.restore();
            self.catch_up();
            self.step(8);
        }
        assert!(self.scheduler.is_idle() && self.clients.is_empty(), "all requests end: {:?}", self.scheduler.load());
        assert_eq!(self.scheduler.pages().available(), self.pages.len(), "no page leaks");
        self.scheduler.check();
    }
}

fn schedules(default: u64) -> u64 {
    std::env::var("FARTHING_SCHEDULES").ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

#[test]
fn every_schedule_gives_the_text_of_a_request_alone() {
    let mut all = Seen::default();
    for seed in 0..schedules(20_000) {
        let mut world = World::new(seed);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.storm()));
        if let Err(payload) = outcome {
            eprintln!("seed {seed}, after step {}", world.seen.steps);
            std::panic::resume_unwind(payload);
        }
        let seen = world.seen;
        all.finished += seen.finished;
        all.preempted += seen.preempted;
        all.shared += seen.shared;
        all.copied += seen.copied;
        all.restored += seen.restored;
        all.missed += seen.missed;
        all.evicted += seen.evicted;
        all.cancelled += seen.cancelled;
        all.refused += seen.refused;
        all.displaced += seen.displaced;
        all.expired += seen.expired;
        all.overdue += seen.overdue;
        all.failed += seen.failed;
        all.told += seen.told;
        all.late += seen.late;
        all.background += seen.background;
        all.steps += seen.steps;
    }
    println!("{all:?}");
    let cache = [all.preempted, all.shared, all.copied, all.restored, all.missed, all.evicted as usize];
    let ends = [all.finished, all.cancelled, all.refused, all.displaced, all.expired, all.overdue, all.failed];
    assert!(cache.iter().chain(&ends).chain(&[all.told, all.late, all.background]).all(|&n| n > 100), "{all:?}");
}

fn bounds() -> Bounds {
    Bounds { page: 4, form_block: None, running: 4, context: 64 }
}

fn arrival(account: u64, priority: i8, prompt: Vec<u32>) -> NewRequest {
    let root = root(&[0; 32], b"");
    NewRequest { prompt, root, account, priority, whole: false, wait_until: None, end_by: None }
}

/// Steps until `id` begins, with everyone decoding for ever.
fn begins_after(scheduler: &mut Scheduler, id: Id, budget: usize) -> usize {
    for steps in 1..1000 {
        let step = scheduler.step(Duration::ZERO, budget, &mut |_| false);
        for part in &step.chunks {
            scheduler.computed(part.id, part.len);
            if part.logits && scheduler.sequence(part.id).is_some_and(|(tokens, _)| tokens.len() < 60) {
                scheduler.push(part.id, &[1]);
            } else if part.logits {
                scheduler.leave(part.id);
            }
        }
        if step.admitted.iter().any(|b| b.id == id) {
            return steps;
        }
    }
    panic!("{id} never begins");
}

#[test]
fn an_account_with_many_requests_does_not_keep_others_waiting() {
    let mut scheduler = Scheduler::new(bounds(), 64);
    for id in 0..40 {
        scheduler.arrive(id, arrival(1, 0, vec![id as u32; 10]));
    }
    assert_eq!(begins_after(&mut scheduler, 3, 64), 1);
    scheduler.arrive(100, arrival(2, 0, vec![9; 10]));
    assert_eq!(begins_after(&mut scheduler, 100, 64), 1, "a place is made for an account that has none");
    // Then the accounts share: the second gets its next request in before the first has finished its queue.
    scheduler.arrive(101, arrival(2, 0, vec![8; 10]));
    assert!(begins_after(&mut scheduler, 101, 64) < 60);
}

#[test]
fn a_higher_priority_makes_room() {
    let mut scheduler = Scheduler::new(bounds(), 16);
    for id in 0..4 {
        scheduler.arrive(id, arrival(1, 0, vec![id as u32; 10]));
    }
    begins_after(&mut scheduler, 3, 64);
    scheduler.arrive(9, arrival(1, 1, vec![9; 30]));
    assert_eq!(begins_after(&mut scheduler, 9, 64), 1);
    scheduler.arrive(10, arrival(1, -1, vec![10; 4]));
    let step = scheduler.step(Duration::ZERO, 64, &mut |_| false);
    assert!(step.admitted.is_empty() && step.preempted.is_empty());
}

#[test]
fn priority_orders_the_requests_of_an_account_and_not_accounts() {
    let mut scheduler = Scheduler::new(bounds(), 64);
    for id in 0..40 {
        scheduler.arrive(id, arrival(1, 100, vec![id as u32; 10]));
    }
    begins_after(&mut scheduler, 3, 64);
    scheduler.arrive(99, arrival(2, -1, vec![8; 10]));
    scheduler.arrive(100, arrival(2, 0, vec![9; 10]));
    assert_eq!(begins_after(&mut scheduler, 100, 64), 1, "a place is made for an account that has none");
    assert!(begins_after(&mut scheduler, 99, 64) < 100);
    // Whose prompt is read, and whose pages stay when they run out.
    let mut scheduler = Scheduler::new(bounds(), 16);
    scheduler.arrive(0, arrival(1, 0, vec![1; 31]));
    scheduler.arrive(1, arrival(2, 100, vec![2; 23]));
    begins_after(&mut scheduler, 1, 64);
    let mut step = scheduler.step(Duration::ZERO, 64, &mut |_| false);
    while step.preempted.is_empty() {
        step.chunks.iter().for_each(|chunk| drop(scheduler.computed(chunk.id, chunk.len)));
        step.chunks.iter().filter(|chunk| chunk.logits).for_each(|chunk| scheduler.push(chunk.id, &[1]));
        step = scheduler.step(Duration::ZERO, 64, &mut |_| false);
    }
    assert_eq!(step.preempted, [1], "the later one, whatever its priority");
}

#[test]
fn the_background_gives_way_in_one_step_and_comes_back() {
    let mut scheduler = Scheduler::new(bounds(), 16);
    for id in 0..4 {
        scheduler.arrive(id, arrival(1, BACKGROUND, vec![id as u32; 10]));
    }
    assert_eq!(begins_after(&mut scheduler, 3, 64), 1);
    assert!(scheduler.only_background());
    // One that fits beside them, and wants the prefix that one of them has begun: they rest.
    scheduler.arrive(9, arrival(3, 0, vec![3; 30]));
    for round in 0..3 {
        let step = scheduler.step(Duration::ZERO, 10, &mut |_| false);
        assert_eq!(step.admitted.iter().map(|a| a.id).collect::<Vec<_>>(), if round == 0 { vec![9] } else { vec![] });
        assert!(step.chunks.iter().all(|chunk| chunk.id == 9) && step.chunks.len() == 1, "{step:?}");
        step.chunks.iter().for_each(|chunk| drop(scheduler.computed(9, chunk.len)));
    }
    // Its token is late, for a constraint, say.
    assert!(scheduler.awaits(9) && scheduler.step(Duration::ZERO, 10, &mut |_| false).is_empty());
    scheduler.leave(9);
    let step = scheduler.step(Duration::ZERO, 64, &mut |_| false);
    assert_eq!(step.chunks.len(), 4, "{step:?}");
    // What it was given counts for nobody: of two accounts the one that came first is first.
    scheduler.arrive(20, arrival(1, 0, vec![7; 40]));
    scheduler.arrive(21, arrival(2, 0, vec![8; 40]));
    let step = scheduler.step(Duration::ZERO, 8, &mut |_| false);
    assert_eq!(step.chunks.iter().map(|chunk| chunk.id).collect::<Vec<_>>(), [20]);
}

#[test]
fn what_another_computes_at_this_moment_is_waited_for() {
    let mut scheduler = Scheduler::new(bounds(), 64);
    for id in 0..3 {
        scheduler.arrive(id, arrival(id, 0, vec![5; 33]));
    }
    let mut read = 0;
    let mut cached = Vec::new();
    for _ in 0..10 {
        let step = scheduler.step(Duration::ZERO, 16, &mut |_| false);
        cached.extend(step.admitted.iter().map(|b| b.cached));
        for part in step.chunks {
            read += part.len;
            scheduler.computed(part.id, part.len);
            if part.logits {
                scheduler.leave(part.id);
            }
        }
    }
    assert_eq!(cached, [0, 32, 32]);
    assert_eq!(read, 33 + 1 + 1);
}

#[test]
fn decoding_goes_on_while_prompts_are_read() {
    let mut scheduler = Scheduler::new(bounds(), 64);
    scheduler.arrive(0, arrival(0, 0, vec![1, 2, 3]));
    begins_after(&mut scheduler, 0, 64);
    scheduler.arrive(1, arrival(0, 0, vec![7; 60]));
    for _ in 0..7 {
        let step = scheduler.step(Duration::ZERO, 8, &mut |_| false);
        assert!(step.chunks.iter().any(|p| p.id == 0 && p.len == 1 && p.logits), "{step:?}");
        assert!(step.chunks.iter().any(|p| p.id == 1 && p.len <= 8), "{step:?}");
        for part in step.chunks {
            scheduler.computed(part.id, part.len);
            if part.logits {
                scheduler.push(part.id, &[1]);
            }
        }
    }
}

#[test]
fn a_unit_is_found_by_its_tokens_form_and_salt_only() {
    let blocks = Bounds { form_block: Some(8), ..bounds() };
    let mut scheduler = Scheduler::new(blocks, 64);
    let mut hit = |id: Id, salt: &[u8], prompt: &[u32]| {
        let arrival = NewRequest { root: root(&[0; 32], salt), ..arrival(0, 0, prompt.to_vec()) };
        scheduler.arrive(id, arrival);
        let mut cached = None;
        loop {
            let step = scheduler.step(Duration::ZERO, 64, &mut |_| false);
            cached = step.admitted.first().map(|b| b.cached).or(cached);
            for part in step.chunks {
                scheduler.computed(part.id, part.len);
                if part.logits {
                    scheduler.leave(part.id);
                    return cached.unwrap();
                }
            }
        }
    };
    let prompt: Vec<u32> = (0..25).collect();
    assert_eq!(hit(0, b"a", &prompt[..20]), 0);
    assert_eq!(hit(1, b"a", &prompt[..20]), 19, "all of it, but for the last token");
    assert_eq!(hit(2, b"b", &prompt[..20]), 0, "another account's");
    // Positions 16 to 19 were computed in the form of a prompt's rest; in a longer prompt they have another.
    assert_eq!(hit(3, b"a", &prompt[..25]), 16);
    assert_eq!(hit(4, b"a", &prompt[..14]), 8, "8 to 11 lie in a block that this prompt does not fill");
}

#[test]
fn the_time_to_wait_for_a_place_ends_when_a_request_begins() {
    let mut scheduler = Scheduler::new(bounds(), 16);
    let patient = NewRequest { wait_until: Some(Duration::from_secs(5)), ..arrival(1, 0, vec![1; 30]) };
    scheduler.arrive(0, patient.clone());
    begins_after(&mut scheduler, 0, 64);
    scheduler.arrive(1, arrival(1, 1, vec![2; 50]));
    scheduler.arrive(2, patient);
    let step = scheduler.step(Duration::ZERO, 64, &mut |_| false);
    assert_eq!((step.preempted, scheduler.next_deadline()), (vec![0], Some(Duration::from_secs(5))));
    // Both wait: one has begun and may wait as long as it takes, the other may not.
    let step = scheduler.step(Duration::from_secs(5), 64, &mut |_| false);
    assert_eq!((step.expired, step.overdue), (vec![2], vec![]));
    assert_eq!((scheduler.load(), scheduler.next_deadline()), ((1, 1), None));
    scheduler.leave(1);
    let step = scheduler.step(Duration::from_secs(6), 64, &mut |_| false);
    assert!(step.chunks.iter().any(|p| p.id == 0) && step.admitted.is_empty(), "it goes on: {step:?}");
}

/// Requests in the order in which they begin, each with as many tokens as it may generate; all are let run to their end.
fn order_of_begins(scheduler: &mut Scheduler, most: usize, wanted: impl Fn(Id) -> usize) -> Vec<Id> {
    let (mut order, mut chosen) = (Vec::new(), HashMap::new());
    while order.len() < most || scheduler.load().0 > 0 {
        let step = scheduler.step(Duration::ZERO, 64, &mut |_| false);
        assert!(!step.chunks.is_empty(), "{order:?}");
        order.extend(step.admitted.iter().map(|b| b.id));
        for part in step.chunks {
            scheduler.computed(part.id, part.len);
            let chosen = chosen.entry(part.id).or_insert(0);
            *chosen += usize::from(part.logits);
            if *chosen == wanted(part.id) {
                scheduler.leave(part.id);
            } else if part.logits {
                scheduler.push(part.id, &[1]);
            }
        }
    }
    order
}

#[test]
fn an_account_that_asked_for_nothing_has_no_credit_from_that_time() {
    let mut scheduler = Scheduler::new(Bounds { running: 1, ..bounds() }, 16);
    for id in 0..20 {
        scheduler.arrive(id, arrival(1, 0, vec![id as u32; 3]));
    }
    assert_eq!(order_of_begins(&mut scheduler, 10, |_| 1), (0..10).collect::<Vec<_>>());
    for id in 100..110 {
        scheduler.arrive(id, arrival(2, 0, vec![id as u32; 3]));
    }
    assert_eq!(order_of_begins(&mut scheduler, 6, |_| 1), [10, 100, 11, 101, 12, 102]);
}

#[test]
fn a_generated_token_counts_as_four_of_a_prompt() {
    // The first account reads 3 tokens and computes 4 of the 5 that it generates: it is given 19.
    for (read, next) in [(18, [3, 2]), (20, [2, 3])] {
        let mut scheduler = Scheduler::new(Bounds { running: 1, ..bounds() }, 16);
        for (id, account, len) in [(0, 1, 3), (1, 2, read), (2, 1, 3), (3, 2, 3)] {
            scheduler.arrive(id, arrival(account, 0, vec![id as u32; len]));
        }
        let order = order_of_begins(&mut scheduler, 4, |id| if id == 0 { 5 } else { 1 });
        assert_eq!(order, [0, 1, next[0], next[1]], "{read}");
    }
}

#[test]
fn a_request_begins_where_those_that_run_have_a_page_to_grow_by() {
    // Of 16 pages the first has one, is sure to need a second, and one is for it to grow by: 13 are left, for 51 tokens and the next.
    for (len, begins) in [(51, true), (52, false), (55, false)] {
        let mut scheduler = Scheduler::new(bounds(), 16);
        scheduler.arrive(0, arrival(1, 0, vec![0; 3]));
        begins_after(&mut scheduler, 0, 64);
        scheduler.arrive(1, arrival(1, 0, vec![1; len]));
        // The first comes to its third page, and nobody has to give way for it.
        for _ in 0..6 {
            let step = scheduler.step(Duration::ZERO, 64, &mut |_| false);
            assert_eq!((scheduler.load().0 == 2, step.preempted), (begins, vec![]), "{len}");
            for part in step.chunks {
                scheduler.computed(part.id, part.len);
                if part.id == 0 {
                    scheduler.push(0, &[1]);
                }
            }
        }
        assert_eq!(scheduler.sequence(0).unwrap().1.len(), 3);
    }
}
