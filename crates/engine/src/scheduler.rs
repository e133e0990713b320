//! What is computed next: which requests, and which of their tokens. A pure function of what it was told: no clock, no thread, no model, no
//! page's contents. Time is a number that the caller gives; so a million schedules can be tried in a test.
//!
//! A step decodes one token of every running request that has read its prompt, and reads prompts within a budget of tokens besides. Of
//! those that wait the account that was served least goes first (virtual token counter, arXiv 2401.00588), then the highest priority, which so
//! orders the requests of an account and not accounts, then the earliest. Requests of the lowest priority (`BACKGROUND`) rest while any other runs or waits. A prefix that another request computes at this moment is waited for, not computed twice. When pages run out, the
//! last in this order gives back its own and waits again: blocks that stay in the cache are found again, the others are recomputed, and the
//! text is the same, since bits follow from the request alone.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use crate::prefix_cache::PrefixCache;
use crate::request::BACKGROUND;
use crate::store::{Key, chain};

/// Names a request.
pub type Id = u64;

/// Cost of a generated token in the count of what an account was given; a prompt's token costs 1. Decoding reads all active weights for each.
const GENERATED_COST: u64 = 4;

/// Accounts that are remembered while they ask for nothing.
const ACCOUNTS_MAX: usize = 4096;

/// Bounds of a schedule.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Tokens of a page, and of a block.
    pub page: usize,
    /// Aligned blocks of a prompt, those before its last token, that are computed in a form of their own, where there is one
    /// (`model::attention::expanded_prompt`).
    pub form_block: Option<usize>,
    /// Requests that run at once.
    pub running: usize,
    /// Longest sequence.
    pub context: usize,
}

/// A request that is to be scheduled.
#[derive(Clone, Debug, Default)]
pub struct NewRequest {
    /// Tokens to read.
    pub prompt: Vec<u32>,
    /// Where its chain of keys begins.
    pub root: Key,
    /// Who asks.
    pub account: u64,
    /// Of an account's requests, higher goes first.
    pub priority: i8,
    /// Every token is computed, whatever the cache has: scores of the prompt are wanted.
    pub whole: bool,
    /// Gives up when it has not begun by then.
    pub wait_until: Option<Duration>,
    /// Ends by then.
    pub end_by: Option<Duration>,
}

/// Tokens of one request to be computed in this step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// The request.
    pub id: Id,
    /// First position.
    pub position: usize,
    /// Tokens.
    pub len: usize,
    /// Whether its last token's logits are wanted: the next token is chosen from them.
    pub logits: bool,
}

/// A block to be brought from disk into a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockLoad {
    /// Its key.
    pub key: Key,
    /// The page to load it into.
    pub page: u32,
}

/// What a step found out about a request that left the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// The request.
    pub id: Id,
    /// Tokens of its prompt that are in the cache, or will be if they are restored: the position of its first part says what came of that.
    pub cached: usize,
    /// Where it first differs from a prompt that was served before, where that is known.
    pub differs_at: Option<usize>,
}

/// What to do now, in this order.
#[derive(Clone, Debug, Default)]
pub struct Step {
    /// Requests that waited too long; they are gone.
    pub expired: Vec<Id>,
    /// Requests whose time is over; they are gone.
    pub overdue: Vec<Id>,
    /// Requests that run for the first time.
    pub admitted: Vec<Admitted>,
    /// Contents to copy, from page to page.
    pub copies: Vec<(u32, u32)>,
    /// Blocks to bring from disk, in order; `loaded` is told of each.
    pub loads: Vec<(Id, Vec<BlockLoad>)>,
    /// Blocks of those that begin, from their first on: they were used now.
    pub used: Vec<Vec<Key>>,
    /// What to compute.
    pub chunks: Vec<Chunk>,
    /// Requests that gave back their pages and wait again.
    pub preempted: Vec<Id>,
}

impl Step {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        let Step { expired, overdue, admitted, loads, chunks, preempted, .. } = self;
        let lists = [expired.len(), overdue.len(), admitted.len(), loads.len(), chunks.len(), preempted.len()];
        lists.iter().all(|&n| n == 0)
    }
}

/// A block that was computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Its key.
    pub key: Key,
    /// The page that holds it.
    pub page: u32,
    /// Position of its first token.
    pub first: usize,
    /// Position after its last token.
    pub end: usize,
}

#[derive(Clone, Debug, Default)]
struct ScheduledRequest {
    id: Id,
    /// As it came, but for its prompt.
    arrival: NewRequest,
    /// Tokens of its prompt.
    prompt: usize,
    /// The prompt and what was generated.
    tokens: Vec<u32>,
    /// Keys of its whole blocks, as far as they are known.
    keys: Vec<Key>,
    pages: Vec<u32>,
    /// Positions whose entries are in its pages.
    computed: usize,
    /// Blocks that were offered to the others.
    published: usize,
    /// Blocks that are on their way from disk, by number.
    loading: VecDeque<usize>,
    /// Blocks that need no computing, once the last has come.
    found: usize,
    begun: bool,
}

/// What of a request is in the cache or on disk.
#[derive(Default)]
struct PrefixHit {
    /// Blocks from its beginning; true where one has to come from disk.
    from_disk: Vec<bool>,
    /// Those in memory that nobody uses now.
    idle: usize,
    /// Key of the first that is nowhere.
    next: Option<Key>,
}

impl ScheduledRequest {
    /// Whether its next token is to be chosen.
    fn awaits(&self) -> bool {
        self.computed == self.tokens.len()
    }

    /// Whether it only waits for its next token to be computed.
    fn decodes(&self) -> bool {
        self.computed + 1 == self.tokens.len() && self.computed >= self.prompt
    }

    /// Rests while others are there.
    fn background(&self) -> bool {
        self.arrival.priority == BACKGROUND
    }

    /// Who gives way last: smaller is later. Who is not in the background, then a higher priority where the requests are one account's, then who came earlier.
    fn seniority(&self, one_account: bool) -> Seniority {
        let priority = if one_account { -i16::from(self.arrival.priority) } else { 0 };
        (self.background(), priority, self.id)
    }
}

type Seniority = (bool, i16, Id);

/// The schedule.
pub struct Scheduler {
    bounds: Bounds,
    pages: PrefixCache,
    /// In order of arrival.
    waiting: Vec<ScheduledRequest>,
    /// In order of arrival too.
    running: Vec<ScheduledRequest>,
    served: HashMap<u64, u64>,
}

impl Scheduler {
    /// A schedule over so many pages. A sequence of the longest context must fit.
    pub fn new(bounds: Bounds, pages: usize) -> Scheduler {
        assert!(pages * bounds.page >= bounds.context && bounds.running > 0 && bounds.page > 0, "one sequence fits");
        assert!(bounds.form_block.is_none_or(|block| block.is_multiple_of(bounds.page)), "forms change between pages");
        let (waiting, running, served) = (Vec::new(), Vec::new(), HashMap::new());
        Scheduler { bounds, pages: PrefixCache::new(pages), waiting, running, served }
    }

    /// Pages and blocks.
    pub fn pages(&self) -> &PrefixCache {
        &self.pages
    }

    /// Requests that run, and that wait.
    pub fn load(&self) -> (usize, usize) {
        (self.running.len(), self.waiting.len())
    }

    /// Requests that run.
    pub fn running(&self) -> impl Iterator<Item = Id> {
        self.running.iter().map(|r| r.id)
    }

    /// Whether there is nothing to do at all.
    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    /// Whether there are requests, all of them in the background.
    pub fn only_background(&self) -> bool {
        !self.is_idle() && !self.others()
    }

    /// Whether there are requests that are not in the background, which rests then.
    fn others(&self) -> bool {
        self.running.iter().chain(&self.waiting).any(|r| !r.background())
    }

    /// Whether all requests that are not in the background are one account's.
    fn one_account(&self) -> bool {
        let mut accounts =
            self.running.iter().chain(&self.waiting).filter(|r| !r.background()).map(|r| r.arrival.account);
        let first = accounts.next();
        accounts.all(|account| Some(account) == first)
    }

    /// The next time at which a request is over, whatever happens.
    pub fn next_deadline(&self) -> Option<Duration> {
        let waiting = self.waiting.iter().flat_map(|r| [r.arrival.wait_until.filter(|_| !r.begun), r.arrival.end_by]);
        waiting.chain(self.running.iter().map(|r| r.arrival.end_by)).flatten().min()
    }

    /// Tokens of a request, prompt first, and its pages.
    pub fn sequence(&self, id: Id) -> Option<(&[u32], &[u32])> {
        self.running.iter().find(|r| r.id == id).map(|r| (&r.tokens[..], &r.pages[..]))
    }

    /// A request comes. Its prompt is neither empty nor longer than the context: the caller saw to that.
    pub fn arrive(&mut self, id: Id, mut new: NewRequest) {
        assert!((1..=self.bounds.context).contains(&new.prompt.len()), "the caller checks prompts");
        self.lift_counter(new.account);
        let tokens = std::mem::take(&mut new.prompt);
        self.waiting.push(ScheduledRequest {
            id,
            prompt: tokens.len(),
            tokens,
            arrival: new,
            ..ScheduledRequest::default()
        });
    }

    /// An account that asked for nothing has no credit from that time.
    fn lift_counter(&mut self, account: u64) {
        let active: HashSet<u64> = self.waiting.iter().chain(&self.running).map(|r| r.arrival.account).collect();
        if active.contains(&account) {
            return;
        }
        if self.served.len() >= ACCOUNTS_MAX {
            self.served.retain(|a, _| active.contains(a));
        }
        let least = active.iter().filter_map(|a| self.served.get(a)).min().copied().unwrap_or(0);
        let served = self.served.entry(account).or_default();
        *served = (*served).max(least);
    }

    /// A request goes, whatever it was doing. Its pages are free, its blocks stay until room is needed.
    pub fn leave(&mut self, id: Id) {
        self.waiting.retain(|r| r.id != id);
        if let Some(at) = self.running.iter().position(|r| r.id == id) {
            let mut request = self.running.remove(at);
            release_pages(&mut self.pages, &mut request);
        }
    }

    /// What to do now. `budget`: tokens of prompts to read in this step. `on_disk` says which blocks could be restored.
    pub fn step(&mut self, now: Duration, budget: usize, on_disk: &mut dyn FnMut(&Key) -> bool) -> Step {
        let mut step = Step::default();
        self.end_overdue(now, &mut step);
        self.admit(on_disk, &mut step);
        self.decode(&mut step);
        self.read(budget, &mut step);
        step
    }

    fn end_overdue(&mut self, now: Duration, step: &mut Step) {
        let past = |time: Option<Duration>| time.is_some_and(|t| t <= now);
        for request in &self.waiting {
            if past(request.arrival.end_by) && request.begun {
                step.overdue.push(request.id);
            } else if past(request.arrival.end_by) || (past(request.arrival.wait_until) && !request.begun) {
                step.expired.push(request.id);
            }
        }
        step.overdue.extend(self.running.iter().filter(|r| past(r.arrival.end_by)).map(|r| r.id));
        step.expired.iter().chain(&step.overdue).for_each(|&id| self.leave(id));
    }

    /// Who goes first: smaller is earlier. Of accounts that were served alike the one that has less running.
    fn rank(&self, request: &ScheduledRequest) -> (bool, u64, usize, i16, Id) {
        let account = request.arrival.account;
        let served = self.served.get(&account).copied().unwrap_or(0);
        let alike = |r: &&ScheduledRequest| r.arrival.account == account && r.background() == request.background();
        let running = self.running.iter().filter(alike).count();
        (request.background(), served, running, -i16::from(request.arrival.priority), request.id)
    }

    fn pages_for(&self, request: &ScheduledRequest) -> usize {
        (request.tokens.len() + 1).min(self.bounds.context).div_ceil(self.bounds.page)
    }

    /// From the queue to those that run, as far as there is room.
    fn admit(&mut self, on_disk: &mut dyn FnMut(&Key) -> bool, step: &mut Step) {
        let mut order: Vec<_> = self.waiting.iter().map(|r| self.rank(r)).collect();
        order.sort_unstable();
        let others = self.others();
        let rests = |r: &ScheduledRequest| others && r.background();
        // Blocks that running requests will compute: those who want one of them wait for it, unless it rests.
        let mut pending: HashSet<Key> = HashSet::new();
        for request in self.running.iter_mut().filter(|r| !rests(r)) {
            collect_pending(&self.bounds, request, &mut pending);
        }
        for (.., id) in order {
            // The background is last.
            if self.waiting.iter().any(|r| r.id == id && rests(r)) {
                return;
            }
            // Until it runs, or waits for a prefix, or nobody gives way: then nobody overtakes it.
            loop {
                let at = self.waiting.iter().position(|r| r.id == id).expect("it waits until it runs");
                let found = self.look_up(at, on_disk);
                if found.next.is_some_and(|key| pending.contains(&key)) {
                    break;
                }
                if self.has_room(at, &found) {
                    let mut request = self.waiting.remove(at);
                    collect_pending(&self.bounds, &mut request, &mut pending);
                    self.begin(request, &found, step);
                    break;
                }
                let Some(victim) = self.pick_victim(at) else { return };
                self.preempt(victim, step);
            }
        }
    }

    /// What is there of the beginning of a request that waits.
    fn look_up(&mut self, at: usize, on_disk: &mut dyn FnMut(&Key) -> bool) -> PrefixHit {
        let request = &mut self.waiting[at];
        let mut found = PrefixHit::default();
        if request.arrival.whole {
            return found;
        }
        let blocks = request.tokens.len() / self.bounds.page;
        extend_keys(&self.bounds, request, blocks);
        for key in &request.keys[..blocks] {
            match self.pages.find(key) {
                Some(idle) => {
                    found.from_disk.push(false);
                    found.idle += usize::from(idle);
                }
                None if on_disk(key) => found.from_disk.push(true),
                None => {
                    found.next = Some(*key);
                    break;
                }
            }
        }
        found
    }

    /// Whether a request can begin: a place, pages for what it has and for its next token, and one for each that runs to grow by.
    fn has_room(&self, at: usize, found: &PrefixHit) -> bool {
        if self.running.is_empty() {
            return true;
        }
        let there = found.from_disk.iter().filter(|&&disk| !disk).count();
        let own = self.pages_for(&self.waiting[at]).saturating_sub(there);
        let promised: usize = self.running.iter().map(|r| self.pages_for(r).saturating_sub(r.pages.len())).sum();
        self.running.len() < self.bounds.running
            && self.pages.available() >= own + found.idle + promised + self.running.len()
    }

    /// Who gives way to a request that waits: the last of the background, or of its account's of a lower priority; or, where its account has nothing running, one of
    /// the account that has most, if that is more than one: its last of the lowest priority.
    fn pick_victim(&self, at: usize) -> Option<Id> {
        let waiting = &self.waiting[at];
        let NewRequest { priority, account, .. } = waiting.arrival;
        let lower =
            |r: &&ScheduledRequest| r.arrival.priority < priority && (r.background() || r.arrival.account == account);
        let last = |r: &&ScheduledRequest| r.seniority(true);
        if let Some(lower) = self.running.iter().filter(lower).max_by_key(last) {
            return Some(lower.id);
        }
        let mut counts: HashMap<u64, usize> = HashMap::new();
        self.running.iter().for_each(|r| *counts.entry(r.arrival.account).or_default() += 1);
        if counts.contains_key(&account) {
            return None;
        }
        let most = counts.values().copied().max().filter(|&n| n > 1)?;
        let may =
            |r: &&ScheduledRequest| counts[&r.arrival.account] == most && (r.background() || !waiting.background());
        let newest = self.running.iter().filter(may).max_by_key(|r| r.id)?;
        let theirs = |r: &&ScheduledRequest| r.arrival.account == newest.arrival.account;
        self.running.iter().filter(may).filter(theirs).max_by_key(last).map(|r| r.id)
    }

    /// A running request gives back its pages and waits again, in its old order.
    fn preempt(&mut self, id: Id, step: &mut Step) {
        let at = self.running.iter().position(|r| r.id == id).expect("it runs");
        let mut request = self.running.remove(at);
        release_pages(&mut self.pages, &mut request);
        step.chunks.retain(|p| p.id != id);
        step.loads.retain(|(who, _)| *who != id);
        step.preempted.push(id);
        let at = self.waiting.partition_point(|r| r.id < id);
        self.waiting.insert(at, request);
    }

    /// A request runs: it shares the blocks that are there.
    fn begin(&mut self, mut request: ScheduledRequest, found: &PrefixHit, step: &mut Step) {
        let (page_len, total) = (self.bounds.page, request.tokens.len());
        let mut loads = Vec::new();
        // Blocks that are shared first, so that none of them goes while pages are taken.
        let shared: Vec<Option<u32>> = found
            .from_disk
            .iter()
            .zip(&request.keys)
            .map(|(&disk, key)| if disk { None } else { self.pages.share(key) })
            .collect();
        for (block, shared) in shared.into_iter().enumerate() {
            let last = (block + 1) * page_len == total;
            let page = match shared {
                Some(page) if !last => page,
                // Its last token is computed once more, for its logits: into a page of its own.
                Some(page) => {
                    let own = self.pages.take();
                    self.pages.release(page);
                    let Some(own) = own else { break };
                    step.copies.push((page, own));
                    own
                }
                None => {
                    let page = self.pages.take().expect("room was made");
                    loads.push(BlockLoad { key: request.keys[block], page });
                    request.loading.push_back(block);
                    page
                }
            };
            request.pages.push(page);
        }
        request.found = request.pages.len();
        set_computed(page_len, &mut request);
        request.published = (request.computed / page_len).min(request.found);
        if !request.begun {
            request.begun = true;
            let cached = (request.found * page_len).min(total - 1);
            let differs_at = self.differs_at(&request);
            step.admitted.push(Admitted { id: request.id, cached, differs_at });
        }
        if request.found > 0 {
            step.used.push(request.keys[..request.found].to_vec());
        }
        if !loads.is_empty() {
            step.loads.push((request.id, loads));
        }
        let at = self.running.partition_point(|r| r.id < request.id);
        self.running.insert(at, request);
    }

    fn differs_at(&self, request: &ScheduledRequest) -> Option<usize> {
        let (block, page) = (request.found, self.bounds.page);
        let before = if block == 0 { &request.arrival.root } else { request.keys.get(block - 1)? };
        let rest = request.tokens.get(block * page..)?;
        let common = self.pages.common(before, rest)?;
        (common < rest.len().min(page)).then_some(block * page + common)
    }

    /// Pages for the first `len` positions of a running request; those who came after it give way.
    fn reserve(&mut self, id: Id, len: usize, step: &mut Step) -> bool {
        let (wanted, one_account) = (len.div_ceil(self.bounds.page), self.one_account());
        loop {
            let request = self.running.iter_mut().find(|r| r.id == id).expect("it runs");
            while request.pages.len() < wanted {
                let Some(page) = self.pages.take() else { break };
                request.pages.push(page);
            }
            if request.pages.len() >= wanted {
                return true;
            }
            let own = request.seniority(one_account);
            let Some((.., victim)) =
                self.running.iter().map(|r| r.seniority(one_account)).max().filter(|last| *last > own)
            else {
                return false;
            };
            self.preempt(victim, step);
        }
    }

    /// One token of everyone who waits for nothing else.
    fn decode(&mut self, step: &mut Step) {
        let (others, one_account) = (self.others(), self.one_account());
        let decodes = |r: &&ScheduledRequest| r.decodes() && !(others && r.background());
        let mut order: Vec<_> = self.running.iter().filter(decodes).map(|r| r.seniority(one_account)).collect();
        order.sort_unstable();
        for (.., id) in order {
            let Some(position) = self.running.iter().find(|r| r.id == id).map(|r| r.computed) else { continue };
            if self.reserve(id, position + 1, step) {
                step.chunks.push(Chunk { id, position, len: 1, logits: true });
            }
        }
    }

    /// Prompts, and what was generated before a request had to wait again.
    fn read(&mut self, mut budget: usize, step: &mut Step) {
        // One whose next token is still to be chosen has nothing to read.
        let others = self.others();
        let rests = |r: &ScheduledRequest| others && r.background();
        let reads = |r: &&ScheduledRequest| r.loading.is_empty() && !r.decodes() && !r.awaits() && !rests(r);
        let mut order: Vec<_> = self.running.iter().filter(reads).map(|r| self.rank(r)).collect();
        order.sort_unstable();
        for (.., id) in order {
            let Some(request) = self.running.iter().find(|r| r.id == id) else { continue };
            let (position, left) = (request.computed, request.tokens.len() - request.computed);
            let most = if request.arrival.whole { budget.min(WHOLE_CHUNK) } else { budget };
            let mut len = left.min(most);
            if let Some(block) = self.bounds.form_block.filter(|_| len < left) {
                // Chunks that end with a block are the fastest.
                len = ((position + len) / block * block).checked_sub(position).filter(|&l| l > 0).unwrap_or(len);
            }
            if len == 0 {
                return;
            }
            if self.reserve(id, position + len, step) {
                step.chunks.push(Chunk { id, position, len, logits: len == left });
                budget -= len;
            }
        }
    }

    /// A part was computed. Blocks that became whole by it, and were in nobody's page before, are told.
    pub fn computed(&mut self, id: Id, len: usize) -> Vec<Block> {
        let Some(request) = self.running.iter_mut().find(|r| r.id == id) else { return Vec::new() };
        let read = (request.prompt.saturating_sub(request.computed)).min(len);
        request.computed += len;
        assert!(request.computed <= request.tokens.len(), "no token is computed before it is known");
        let cost = read as u64 + (len - read) as u64 * GENERATED_COST;
        let (account, background) = (request.arrival.account, request.background());
        let blocks = publish_blocks(&self.bounds, &mut self.pages, request);
        // Nobody lacked what the background was given.
        if !background {
            *self.served.entry(account).or_default() += cost;
        }
        blocks
    }

    /// The next tokens of a request, chosen from the logits of its last; nothing for one that has left. More than one where some were guessed
    /// and confirmed: all but the last are then read like a prompt's.
    pub fn push(&mut self, id: Id, tokens: &[u32]) {
        let Some(request) = self.running.iter_mut().find(|r| r.id == id) else { return };
        assert!(request.computed == request.tokens.len() && request.tokens.len() + tokens.len() <= self.bounds.context);
        request.tokens.extend_from_slice(tokens);
    }

    /// Whether a request runs and waits for `push`. It may wait while others go on.
    pub fn awaits(&self, id: Id) -> bool {
        self.running.iter().any(|r| r.id == id && r.awaits())
    }

    /// The next block of a request came from disk into its page, or did not: then it and what follows are computed. False where the
    /// request wants no more.
    pub fn loaded(&mut self, id: Id, came: bool) -> bool {
        let Some(request) = self.running.iter_mut().find(|r| r.id == id) else { return false };
        let Some(block) = request.loading.pop_front() else { return false };
        if !came {
            request.loading.clear();
            request.pages.drain(block..).rev().for_each(|page| self.pages.release(page));
            request.found = block;
        }
        set_computed(self.bounds.page, request);
        publish_blocks(&self.bounds, &mut self.pages, request);
        came
    }

    /// What must always hold.
    ///
    /// # Panics
    /// When it does not.
    pub fn check(&self) {
        let mut users: HashMap<u32, u32> = HashMap::new();
        for request in &self.running {
            request.pages.iter().for_each(|&page| *users.entry(page).or_default() += 1);
            assert!(request.pages.len() * self.bounds.page >= request.computed);
            assert!(request.computed <= request.tokens.len() && request.tokens.len() <= self.bounds.context);
        }
        assert!(self.waiting.iter().all(|r| r.pages.is_empty()), "those that wait have no pages");
        assert!(self.running.len() <= self.bounds.running);
        assert!(
            self.waiting.is_sorted_by_key(|r| r.id) && self.running.is_sorted_by_key(|r| r.id),
            "in order of arrival"
        );
        self.pages.check(&users);
    }
}

/// Tokens of a prompt whose scores are wanted that are read together: each has a row of logits.
const WHOLE_CHUNK: usize = 128;

/// Keys of a request's first `blocks` blocks. A block's form follows from its place in the prompt.
fn extend_keys(bounds: &Bounds, request: &mut ScheduledRequest, blocks: usize) {
    let expanded = bounds.form_block.map_or(0, |block| (request.prompt - 1) / block * block);
    for block in request.keys.len()..blocks {
        let (first, end) = (block * bounds.page, (block + 1) * bounds.page);
        let before = request.keys.last().unwrap_or(&request.arrival.root);
        let key = chain(before, u8::from(end <= expanded), &request.tokens[first..end]);
        request.keys.push(key);
    }
}

/// Keys of the blocks that a request has yet to compute or restore.
fn collect_pending(bounds: &Bounds, request: &mut ScheduledRequest, pending: &mut HashSet<Key>) {
    let whole = request.tokens.len() / bounds.page;
    extend_keys(bounds, request, whole);
    pending.extend(&request.keys[request.published.min(whole)..]);
}

/// Positions that need no computing: blocks that are there, but for the last token, whose logits are wanted.
fn set_computed(page: usize, request: &mut ScheduledRequest) {
    let blocks = request.loading.front().copied().unwrap_or(request.found);
    request.computed = (blocks * page).min(request.tokens.len() - 1);
}

/// Blocks that became whole are there for everyone.
fn publish_blocks(bounds: &Bounds, pages: &mut PrefixCache, request: &mut ScheduledRequest) -> Vec<Block> {
    let whole = request.computed / bounds.page;
    extend_keys(bounds, request, whole);
    let mut blocks = Vec::new();
    for block in request.published..whole {
        let (key, page) = (request.keys[block], request.pages[block]);
        let (first, end) = (block * bounds.page, (block + 1) * bounds.page);
        let before = if block == 0 { request.arrival.root } else { request.keys[block - 1] };
        if pages.publish(page, key, before, &request.tokens[first..end]) {
            blocks.push(Block { key, page, first, end });
        }
    }
    request.published = request.published.max(whole);
    blocks
}

/// The pages of a request that no longer runs. Its last blocks go first when room is needed.
fn release_pages(pages: &mut PrefixCache, request: &mut ScheduledRequest) {
    request.pages.drain(..).rev().for_each(|page| pages.release(page));
    request.loading.clear();
    (request.computed, request.published, request.found) = (0, 0, 0);
}
