//! The engine's thread as a whole, over a small deterministic computation that keeps its state in the KV blocks: what
//! comes out is right only where block tables, positions and rows are.

use super::*;
use kernels::BLOCK_TOKENS;
use std::collections::HashMap;
use tokio::sync::{mpsc as channel, oneshot, watch};

const VOCAB: u32 = 97;
const BLOCKS: u32 = 64;

/// Logits peak at a hash of all tokens up to the row, which are read back through the block table.
struct Hashing {
    kv: Vec<Option<u32>>,
    /// Panics when it sees this token.
    panics_at: Option<u32>,
    /// Reports the tokens of each step before it is computed, and waits for room to do so.
    steps: Option<channel::Sender<Vec<u32>>>,
    /// Logits are not numbers after this token.
    broken_at: Option<u32>,
    /// Longer sequences are of another regime.
    crosses_at: Option<usize>,
    /// What each slot was computed in.
    regimes: Vec<u32>,
    /// Says 0 to 9 again and again, by position.
    periodic: bool,
}

impl Default for Hashing {
    fn default() -> Self {
        Self {
            kv: vec![None; BLOCKS as usize * BLOCK_TOKENS],
            panics_at: None,
            steps: None,
            broken_at: None,
            crosses_at: None,
            regimes: vec![0; BLOCKS as usize * BLOCK_TOKENS],
            periodic: false,
        }
    }
}

fn hash(history: impl Iterator<Item = u32>) -> u32 {
    history.fold(7u32, |h, t| h.wrapping_mul(31).wrapping_add(t ^ 5).rotate_left(7)) % VOCAB
}

/// What a prompt continues with.
fn expected(prompt: &[u32], n: usize) -> Vec<u32> {
    let mut tokens = prompt.to_vec();
    (0..n).for_each(|_| tokens.push(hash(tokens.iter().copied())));
    tokens.split_off(prompt.len())
}

impl Compute for Hashing {
    fn read_block(&mut self, block: u32, out: &mut [u8]) {
        let words = out.as_chunks_mut::<4>().0;
        assert_eq!(words.len(), 2 * BLOCK_TOKENS);
        for i in 0..BLOCK_TOKENS {
            let slot = block as usize * BLOCK_TOKENS + i;
            words[2 * i] = self.kv[slot].expect("only full blocks are read").to_le_bytes();
            words[2 * i + 1] = self.regimes[slot].to_le_bytes();
        }
    }

    fn write_block(&mut self, block: u32, bytes: &[u8]) {
        let words = bytes.as_chunks::<4>().0;
        for i in 0..BLOCK_TOKENS {
            let slot = block as usize * BLOCK_TOKENS + i;
            self.kv[slot] = Some(u32::from_le_bytes(words[2 * i]));
            self.regimes[slot] = u32::from_le_bytes(words[2 * i + 1]);
        }
    }

    fn regime(&self, length: usize) -> u32 {
        u32::from(self.crosses_at.is_some_and(|at| length > at))
    }

    fn forward(&mut self, batch: &Batch, row: &mut dyn FnMut(usize, &[f32])) {
        if let Some(steps) = &self.steps {
            steps.blocking_send(batch.tokens.clone()).unwrap();
        }
        assert!(self.panics_at.is_none_or(|t| !batch.tokens.contains(&t)), "out of sorts");
        let mut next = HashMap::new();
        for s in &batch.segments {
            let slot =
                |position: usize| s.blocks[position / BLOCK_TOKENS] as usize * BLOCK_TOKENS + position % BLOCK_TOKENS;
            for r in 0..s.rows {
                let regime = self.regime(s.length);
                self.regimes[slot(s.position + r)] = regime;
                let all = (0..=s.position + r).all(|p| self.regimes[slot(p)] == regime);
                assert!(all, "keys of two regimes in one sequence");
                self.kv[slot(s.position + r)] = Some(batch.tokens[s.row + r]);
                let history = (0..=s.position + r).map(|p| self.kv[slot(p)].expect("computed before"));
                let periodic = (s.position + r + 1) as u32 % 10;
                next.insert(s.row + r, if self.periodic { periodic } else { hash(history) });
            }
        }
        let sampled = batch.segments.len() * (draft::GUESSES_MAX + 1);
        assert!(batch.wanted.len() <= worker::SCORED_ROWS_MAX + sampled, "logits of a whole prompt at once");
        for (i, wanted) in batch.wanted.iter().enumerate() {
            let mut logits = vec![0.0; VOCAB as usize];
            logits[next[wanted] as usize] = 9.0;
            if self.broken_at == Some(batch.tokens[*wanted]) {
                logits.fill(f32::NAN);
            }
            row(i, &logits);
        }
    }
}

fn limits() -> Limits {
    Limits { sequences: 8, waiting: 64, rows: 48, events: 16, slow_reader: Duration::from_secs(3600) }
}

struct Bench {
    engine: Engine,
    ended: oneshot::Receiver<Result<(), Panicked>>,
    verdict: watch::Sender<Verdict>,
}

fn start(limits: Limits, compute: Hashing) -> Bench {
    start_with(limits, compute, None)
}

fn start_with(limits: Limits, compute: Hashing, keep: Option<Box<dyn Keep>>) -> Bench {
    let (verdict, gate) = Gate::new();
    let (sender, ended) = oneshot::channel();
    let engine = Engine::start(limits, gate, move || Some(Loaded { compute, blocks: BLOCKS, keep }), sender).unwrap();
    Bench { engine, ended, verdict }
}

fn greedy(prompt: &[u32], max_tokens: usize) -> Job {
    let params = Params { temperature: 0.0, ..Params::default() };
    Job {
        prompt: prompt.to_vec(),
        generated: vec![],
        max_tokens,
        ends: vec![],
        params,
        logprobs: None,
        score_prompt: false,
        cache: Some(Scope(0)),
        speculate: true,
        guide: None,
    }
}

/// All tokens and how it ended.
async fn collect(mut output: Output) -> (Vec<u32>, Option<Event>) {
    let mut tokens = Vec::new();
    loop {
        match output.next().await {
            Some(Event::Token(t)) => tokens.push(t.id),
            Some(Event::Prefilled(_)) => assert!(tokens.is_empty()),
            other => return (tokens, other),
        }
    }
}

/// Waits for a state that stays until the test goes on; a state that may be over by then is missed, and that is an error
/// after a minute.
async fn until(bench: &Bench, reached: impl FnMut(&super::handle::EngineStats) -> bool) {
    let mut watch = bench.engine.watch();
    let waited = tokio::time::timeout(Duration::from_secs(60), watch.wait_for(reached)).await;
    let last = *bench.engine.watch().borrow();
    waited.unwrap_or_else(|_| panic!("not reached within a minute; the engine stands at {last:?}")).unwrap();
}

#[tokio::test]
async fn many_sequences_at_once_give_what_each_gives_alone() {
    let bench = start(limits(), Hashing::default());
    let prompts: Vec<Vec<u32>> = (0..30).map(|i| (0..1 + i * 7 % 130).map(|t| (t * i) % VOCAB).collect()).collect();
    let outputs: Vec<_> = prompts.iter().map(|p| bench.engine.submit(greedy(p, 12)).unwrap()).collect();
    for (prompt, output) in prompts.iter().zip(outputs) {
        let (tokens, last) = collect(output).await;
        assert_eq!(tokens, expected(prompt, 12));
        assert!(matches!(last, Some(Event::Finished(FinishReason::Length))));
    }
    until(&bench, |s| s.running == 0 && s.blocks_used == 0).await;
    drop(bench.engine);
    assert_eq!(bench.ended.await.unwrap(), Ok(()));
}

#[tokio::test]
async fn who_grows_into_another_regime_is_computed_anew_and_shares_with_its_like() {
    for periodic in [false, true] {
        let bench = start(limits(), Hashing { crosses_at: Some(70), periodic, ..Hashing::default() });
        let prompts: Vec<Vec<u32>> = (0..12).map(|i| (0..52 + 3 * i).map(|t| t * 7 % VOCAB).collect()).collect();
        let outputs: Vec<_> = prompts.iter().map(|p| bench.engine.submit(greedy(p, 40)).unwrap()).collect();
        for (prompt, output) in prompts.iter().zip(outputs) {
            let (tokens, last) = collect(output).await;
            let says = |n: usize| (prompt.len() + n) as u32 % 10;
            let want = if periodic { (0..40).map(says).collect() } else { expected(prompt, 40) };
            assert_eq!(tokens, want, "{} tokens", prompt.len());
            assert!(matches!(last, Some(Event::Finished(FinishReason::Length))));
        }
        until(&bench, |s| s.running == 0 && s.blocks_used == 0 && s.reused_tokens > 0).await;
    }
}

#[tokio::test]
async fn a_sequence_that_was_begun_elsewhere_goes_on_with_the_same_tokens() {
    let bench = start(limits(), Hashing::default());
    let params =
        Params { temperature: 0.9, frequency_penalty: 0.5, repetition_penalty: 1.2, seed: 4, ..Params::default() };
    let job =
        |generated: &[u32]| Job { generated: generated.to_vec(), params: params.clone(), ..greedy(&[3, 1, 4], 70) };
    let (all, _) = collect(bench.engine.submit(job(&[])).unwrap()).await;
    assert_eq!(all.len(), 70);
    for begun in [1, 2, 28, 29, 30, 61, 69, 70] {
        let (rest, last) = collect(bench.engine.submit(job(&all[..begun])).unwrap()).await;
        assert_eq!(rest, all[begun..], "behind {begun}");
        assert!(matches!(last, Some(Event::Finished(FinishReason::Length))), "behind {begun}: {last:?}");
    }
}

#[tokio::test]
async fn an_engine_that_is_left_interrupts_all_and_takes_no_more() {
    let bench = start(limits(), Hashing::default());
    let mut outputs: Vec<Output> = (0..6).map(|i| bench.engine.submit(greedy(&[7, i], 500)).unwrap()).collect();
    assert!(outputs[0].next().await.is_some());
    bench.engine.leave();
    for mut output in outputs {
        let last = loop {
            match output.next().await {
                Some(Event::Token(_) | Event::Prefilled(_)) => {}
                last => break last,
            }
        };
        let interrupted = match last {
            Some(Event::Failed(ref e)) => e.kind == protocol::ErrorKind::Interrupted,
            None => output.is_interrupted(),
            _ => false,
        };
        assert!(interrupted, "{last:?}");
    }
    let mut stats = bench.engine.watch();
    while stats.changed().await.is_ok() {}
    assert_eq!(bench.engine.submit(greedy(&[1], 1)).err(), Some(Refused::Stopped));
}

#[tokio::test]
async fn an_end_token_stops_and_is_not_sent() {
    let bench = start(limits(), Hashing::default());
    let all = expected(&[3, 1, 4], 20);
    let end = all[6];
    let first = all.iter().position(|&t| t == end).unwrap();
    let output = bench.engine.submit(Job { ends: vec![end], ..greedy(&[3, 1, 4], 20) }).unwrap();
    let (tokens, last) = collect(output).await;
    assert_eq!(tokens, all[..first]);
    assert!(matches!(last, Some(Event::Finished(FinishReason::Stop))));
}

#[tokio::test]
async fn a_dropped_reader_frees_its_blocks_before_the_next_step_but_one() {
    let (steps, mut seen) = channel::channel(1);
    let bench = start(limits(), Hashing { steps: Some(steps), ..Hashing::default() });
    let output = bench.engine.submit(greedy(&[11, 12], 500)).unwrap();
    assert_eq!(seen.recv().await.unwrap(), [11, 12]);
    until(&bench, |s| s.running == 1 && s.blocks_used > 0).await;
    drop(output);
    // One step may be computed already, one waits for room to report itself: no third one comes.
    let (mut more, mut stats) = (0, bench.engine.watch());
    loop {
        tokio::select! {
            Some(_) = seen.recv() => more += 1,
            _ = stats.wait_for(|s| s.running == 0 && s.blocks_used == 0) => break,
        }
    }
    assert!(more <= 3, "{more} steps after the reader had gone");
}

#[tokio::test]
async fn a_waiting_sequence_without_a_reader_is_let_go_and_the_queue_is_bounded() {
    let (steps, mut seen) = channel::channel(1);
    let limits = Limits { sequences: 1, waiting: 2, ..limits() };
    let bench = start(limits, Hashing { steps: Some(steps), ..Hashing::default() });
    let first = bench.engine.submit(greedy(&[1, 2], 500)).unwrap();
    seen.recv().await.unwrap();
    // The engine is computing and reports its next step to nobody: the queue fills.
    let mut queued = Vec::new();
    let refused = loop {
        match bench.engine.submit(greedy(&[5], 500)) {
            Ok(output) => queued.push(output),
            Err(e) => break e,
        }
    };
    assert_eq!(refused, Refused::Full(2));
    assert!((2..=4).contains(&queued.len()));
    drop((first, queued));
    tokio::spawn(async move { while seen.recv().await.is_some() {} });
    until(&bench, |s| s.running == 0 && s.waiting == 0 && s.blocks_used == 0).await;
}

#[tokio::test]
async fn where_blocks_run_out_the_youngest_waits_and_all_get_through_with_their_tokens() {
    let bench = start(limits(), Hashing::default());
    let pool = BLOCKS as usize * BLOCK_TOKENS;
    // Each alone needs the whole pool; together they cannot stay.
    let prompts: Vec<Vec<u32>> = (1..5).map(|i| (0..40 * i).map(|t| (t + i) % VOCAB).collect()).collect();
    let jobs: Vec<_> = prompts.iter().map(|p| (p, pool - p.len())).collect();
    let outputs: Vec<_> = jobs.iter().map(|(p, n)| bench.engine.submit(greedy(p, *n)).unwrap()).collect();
    let collected = outputs.into_iter().map(|output| tokio::spawn(collect(output)));
    for ((prompt, n), output) in jobs.iter().zip(collected.collect::<Vec<_>>()) {
        let (tokens, last) = output.await.unwrap();
        assert!(tokens == expected(prompt, *n), "the tokens of a sequence that nobody disturbed");
        assert!(matches!(last, Some(Event::Finished(FinishReason::Length))));
    }
    until(&bench, |s| s.running == 0 && s.blocks_used == 0 && s.preempted > 0).await;
}

#[tokio::test]
async fn prompts_are_scored_in_any_company_and_whatever_is_known() {
    let bench = start(Limits { rows: 400, ..limits() }, Hashing::default());
    let pool = BLOCKS as usize * BLOCK_TOKENS;
    // The longest fills the pool to its last row, and what follows is known in part.
    let lengths = [pool, 1, 2, 64, 65, 66, 700, 701];
    let prompt = |length: usize| (0..length as u32).map(|t| t * t % VOCAB).collect::<Vec<_>>();
    for max_tokens in [0, 3] {
        let wanted = |length: usize| if length == pool { 0 } else { max_tokens };
        let job = |n: usize| Job { logprobs: Some(1), score_prompt: true, ..greedy(&prompt(n), wanted(n)) };
        let outputs = lengths.map(|length| tokio::spawn(scored(bench.engine.submit(job(length)).unwrap())));
        for (length, output) in lengths.into_iter().zip(outputs) {
            let (scores, tokens) = output.await.unwrap();
            let prompt = prompt(length);
            assert_eq!((scores.len(), tokens), (length - 1, expected(&prompt, wanted(length))), "{length}");
            for (i, score) in (1..).zip(scores) {
                let best = hash(prompt[..i].iter().copied());
                assert_eq!(score.top[0].0, best, "{length} at {i}");
                assert_eq!(score.chosen == score.top[0].1, prompt[i] == best, "{length} at {i}");
            }
        }
    }
    until(&bench, |s| s.running == 0 && s.blocks_used == 0 && s.reused_tokens == 0).await;
}

/// A prompt's scores and the tokens that follow.
async fn scored(mut output: Output) -> (Vec<Logprobs>, Vec<u32>) {
    assert!(matches!(output.next().await, Some(Event::Prefilled(_))));
    let Some(Event::Scored(scores)) = output.next().await else { panic!("no scores") };
    let (tokens, last) = collect(output).await;
    assert!(matches!(last, Some(Event::Finished(FinishReason::Length))));
    (scores, tokens)
}

#[tokio::test]
async fn a_known_prefix_is_not_computed_again_but_only_in_its_scope() {
    let (steps, mut seen) = channel::channel(1000);
    let bench = start(limits(), Hashing { steps: Some(steps), ..Hashing::default() });
    let prompt: Vec<u32> = (0..100).map(|t| t * 7 % VOCAB).collect();
    let mut longer = prompt.clone();
    longer.extend([1, 2, 3]);
    let mut rows = async |job: Job| {
        let want = expected(&job.prompt, job.max_tokens);
        assert_eq!(collect(bench.engine.submit(job).unwrap()).await.0, want);
        std::iter::from_fn(|| seen.try_recv().ok()).map(|step| step.len()).sum::<usize>()
    };
    let once = |prompt: &[u32]| Job { speculate: false, ..greedy(prompt, 1) };
    assert_eq!(rows(once(&prompt)).await, 100);
    assert_eq!(rows(once(&longer)).await, 103 - 96);
    assert_eq!(rows(once(&prompt[..96])).await, 96 - 64, "the last row is computed for its logits");
    assert_eq!(rows(Job { cache: Some(Scope(1)), ..once(&longer) }).await, 103);
    assert_eq!(rows(Job { cache: None, ..once(&longer) }).await, 103);
    until(&bench, |s| s.blocks_used == 0 && s.blocks_idle > 0 && s.reused_tokens == 96 + 64).await;
}

#[tokio::test]
async fn right_guesses_save_steps_and_no_guess_changes_a_token() {
    for speculate in [false, true] {
        let (steps, mut seen) = channel::channel(4000);
        let bench = start(limits(), Hashing { steps: Some(steps), periodic: true, ..Hashing::default() });
        let job = Job { speculate, ..greedy(&[5, 6, 7], 300) };
        let tokens = collect(bench.engine.submit(job).unwrap()).await.0;
        assert!(tokens.iter().enumerate().all(|(i, &t)| t == (i as u32 + 3) % 10));
        drop(bench.engine);
        let mut count = 0;
        while seen.recv().await.is_some() {
            count += 1;
        }
        assert!(if speculate { count < 80 } else { count == 300 }, "{count} steps, speculate: {speculate}");
    }
}

#[tokio::test]
async fn a_slow_reader_pauses_its_sequence_and_loses_nothing() {
    let bench = start(limits(), Hashing::default());
    bench.verdict.send_replace(Verdict::Sound);
    let slow = bench.engine.submit(greedy(&[8], 200)).unwrap();
    let quick = bench.engine.submit(greedy(&[9], 200)).unwrap();
    assert_eq!(collect(quick).await.0, expected(&[9], 200));
    until(&bench, |s| s.running == 1).await;
    assert_eq!(collect(slow).await.0, expected(&[8], 200));
}

#[tokio::test]
async fn nobody_waits_for_somebody_elses_reader() {
    // One place: whoever has it and does not read must give it up.
    let bench = start(Limits { sequences: 1, ..limits() }, Hashing::default());
    bench.verdict.send_replace(Verdict::Sound);
    let slow = bench.engine.submit(greedy(&[8], 200)).unwrap();
    let slower = bench.engine.submit(greedy(&[7], 300)).unwrap();
    let quick = collect(bench.engine.submit(greedy(&[9], 200)).unwrap());
    let quick = tokio::time::timeout(Duration::from_secs(60), quick).await.expect("it got the place");
    assert_eq!(quick.0, expected(&[9], 200));
    assert_eq!(collect(slower).await.0, expected(&[7], 300), "and what was set aside loses nothing");
    assert_eq!(collect(slow).await.0, expected(&[8], 200));
    until(&bench, |s| s.running == 0 && s.waiting == 0 && s.blocks_used == 0 && s.preempted > 0).await;
}

#[tokio::test]
async fn a_reader_that_is_behind_gives_its_blocks_to_who_needs_them() {
    let bench = start(limits(), Hashing::default());
    bench.verdict.send_replace(Verdict::Sound);
    let long: Vec<u32> = (0..BLOCKS * BLOCK_TOKENS as u32 / 2).map(|t| t % VOCAB).collect();
    let slow = bench.engine.submit(greedy(&long, 200)).unwrap();
    until(&bench, |s| s.running == 1 && s.blocks_used > BLOCKS as usize / 2).await;
    let whole = BLOCKS as usize * BLOCK_TOKENS - 1;
    let quick = collect(bench.engine.submit(greedy(&[9], whole)).unwrap());
    let quick = tokio::time::timeout(Duration::from_secs(60), quick).await.expect("it got the blocks");
    assert!(quick.0 == expected(&[9], whole));
    assert_eq!(collect(slow).await.0, expected(&long, 200));
}

#[tokio::test]
async fn what_is_over_has_no_place_even_while_its_last_words_are_unread() {
    let bench = start(Limits { events: 4, ..limits() }, Hashing::default());
    bench.verdict.send_replace(Verdict::Sound);
    // Six events.
    let unread: Vec<_> = (0..20).map(|i| bench.engine.submit(greedy(&[i], 4)).unwrap()).collect();
    until(&bench, |s| s.running == 0 && s.waiting == 0 && s.blocks_used == 0 && s.blocks_total > 0).await;
    for (i, output) in (0..).zip(unread) {
        let (tokens, last) = collect(output).await;
        assert_eq!(tokens, expected(&[i], 4));
        assert!(matches!(last, Some(Event::Finished(FinishReason::Length))));
    }
}

#[tokio::test]
async fn a_prefix_that_several_have_is_computed_once_though_they_come_at_once() {
    for sequences in [2, 8] {
        let (steps, mut seen) = channel::channel(1000);
        let hashing = Hashing { steps: Some(steps), ..Hashing::default() };
        let bench = start(Limits { sequences, ..limits() }, hashing);
        let prompt: Vec<u32> = (0..200).map(|t| t * 7 % VOCAB).collect();
        let other: Vec<u32> = (0..40).map(|t| t * 5 % VOCAB).collect();
        let once = |prompt: &[u32]| Job { speculate: false, ..greedy(prompt, 1) };
        let outputs: Vec<_> = (0..8).map(|_| bench.engine.submit(once(&prompt)).unwrap()).collect();
        let last = bench.engine.submit(once(&other)).unwrap();
        for output in outputs {
            assert_eq!(collect(output).await.0, expected(&prompt, 1));
        }
        assert_eq!(collect(last).await.0, expected(&other, 1));
        let rows: usize = std::iter::from_fn(|| seen.try_recv().ok()).map(|step| step.len()).sum();
        assert_eq!(rows, 200 + 7 * (200 - 192) + 40, "{sequences} at once");
    }
}

#[tokio::test]
async fn who_waits_for_a_prefix_goes_on_when_nobody_computes_it_any_more() {
    let (steps, mut seen) = channel::channel(1);
    let bench = start(limits(), Hashing { steps: Some(steps), ..Hashing::default() });
    let prompt: Vec<u32> = (0..200).map(|t| t * 7 % VOCAB).collect();
    let first = bench.engine.submit(greedy(&prompt, 3)).unwrap();
    let second = bench.engine.submit(greedy(&prompt, 3)).unwrap();
    // A step at a time: the first may have begun before the second came.
    let waits = until(&bench, |s| s.running == 1 && s.waiting == 1);
    tokio::pin!(waits);
    loop {
        tokio::select! {
            biased;
            () = &mut waits => break,
            step = seen.recv() => drop(step.unwrap()),
        }
    }
    drop(first);
    tokio::spawn(async move { while seen.recv().await.is_some() {} });
    assert_eq!(collect(second).await.0, expected(&prompt, 3));
}

#[tokio::test]
async fn a_reader_that_is_too_slow_is_cancelled_but_not_while_the_gate_is_closed() {
    let (steps, mut seen) = channel::channel(1);
    let hashing = Hashing { steps: Some(steps), ..Hashing::default() };
    let bench = start(Limits { slow_reader: Duration::ZERO, ..limits() }, hashing);
    bench.verdict.send_replace(Verdict::Sound);
    let output = bench.engine.submit(greedy(&[8], 200)).unwrap();
    // While nobody takes its steps it cannot get far enough to be cut, so that it is seen to run.
    until(&bench, |s| s.running == 1).await;
    tokio::spawn(async move { while seen.recv().await.is_some() {} });
    until(&bench, |s| s.running == 0 && s.blocks_used == 0).await;
    let (tokens, last) = collect(output).await;
    assert!(last.is_none() && tokens.len() < 200, "cut short, and the reader can tell");

    let bench = start(Limits { slow_reader: Duration::ZERO, ..limits() }, Hashing::default());
    let held = bench.engine.submit(greedy(&[8], 200)).unwrap();
    // Others come and go, turn after turn, while the gate is closed and nobody reads the first.
    for _ in 0..20 {
        let other = bench.engine.submit(greedy(&[9], 3)).unwrap();
        assert_eq!(collect(other).await.0.len(), 3);
    }
    until(&bench, |s| s.running == 1).await;
    drop(held);
    until(&bench, |s| s.running == 0).await;
}

#[tokio::test]
async fn a_panic_answers_everybody_and_ends_the_engine() {
    let bench = start(Limits { sequences: 2, ..limits() }, Hashing { panics_at: Some(66), ..Hashing::default() });
    let bad = bench.engine.submit(greedy(&[66], 500)).unwrap();
    let others: Vec<_> = (0..4).filter_map(|_| bench.engine.submit(greedy(&[1], 500)).ok()).collect();
    for output in others.into_iter().chain([bad]) {
        match collect(output).await.1 {
            Some(Event::Failed(e)) => assert_eq!(e.status().as_u16(), 500),
            // Its submission came after the end; the channel's end is an error, too.
            None => {}
            other => panic!("{other:?}"),
        }
    }
    let panicked = bench.ended.await.unwrap().unwrap_err();
    assert!(panicked.message.contains("out of sorts"));
    assert!(matches!(bench.engine.submit(greedy(&[1], 1)), Err(Refused::Stopped)));
}

#[tokio::test]
async fn broken_logits_fail_one_sequence_alone() {
    let bench = start(limits(), Hashing { broken_at: Some(50), ..Hashing::default() });
    let bad = bench.engine.submit(greedy(&[50], 5)).unwrap();
    let sound = (0..50).map(|t| [t]).find(|p| !expected(p, 5).contains(&50)).unwrap();
    let good = bench.engine.submit(greedy(&sound, 5)).unwrap();
    assert!(matches!(collect(bad).await.1, Some(Event::Failed(_))));
    assert_eq!(collect(good).await.0, expected(&sound, 5));
}

/// An engine that keeps its blocks in `folder`, in a pool of its own.
fn start_keeping(folder: &std::sync::Arc<crate::kv_store::Folder>) -> Bench {
    let identity = crate::kv_store::Identity {
        digest: &[3; 32],
        instruction_set: "portable",
        kv_format: "f32",
        block_bytes: 8 * BLOCK_TOKENS,
    };
    let store = crate::kv_store::KvStore::open(folder, &identity).unwrap();
    start_with(limits(), Hashing::default(), Some(Box::new(store)))
}

#[tokio::test]
async fn the_next_life_takes_up_where_the_last_one_was_and_says_the_same() {
    let at = tempfile::TempDir::new().unwrap();
    let folder = std::sync::Arc::new(crate::kv_store::Folder::open(at.path(), None, 1 << 20).unwrap());
    let prompt: Vec<u32> = (0..3 * BLOCK_TOKENS as u32 + 5).map(|i| i * 7 % VOCAB).collect();
    let answer = expected(&prompt, 2 * BLOCK_TOKENS);
    let mut conversation = prompt.clone();
    conversation.extend(&answer);
    conversation.extend([1, 2, 3]);
    let scoped = |tokens: &[u32], scope| Job { cache: Some(Scope(scope)), ..greedy(tokens, 2 * BLOCK_TOKENS) };
    let reused = |bench: &Bench| bench.engine.watch().borrow().reused_tokens as usize;

    let bench = start_keeping(&folder);
    bench.verdict.send_replace(Verdict::Sound);
    let (tokens, _) = collect(bench.engine.submit(scoped(&prompt, 1)).unwrap()).await;
    assert_eq!(tokens, answer);
    drop(bench.engine);
    bench.ended.await.unwrap().unwrap();

    // Another process, as far as it can tell: the same folder, an empty pool.
    let bench = start_keeping(&folder);
    bench.verdict.send_replace(Verdict::Sound);
    let (tokens, _) = collect(bench.engine.submit(scoped(&conversation, 2)).unwrap()).await;
    assert_eq!((tokens, reused(&bench)), (expected(&conversation, 2 * BLOCK_TOKENS), 0), "another scope finds nothing");
    let (tokens, _) = collect(bench.engine.submit(scoped(&conversation, 1)).unwrap()).await;
    assert_eq!(tokens, expected(&conversation, 2 * BLOCK_TOKENS));
    assert_eq!(reused(&bench), (prompt.len() + answer.len() - 1) / BLOCK_TOKENS * BLOCK_TOKENS, "all that was full");
    drop(bench.engine);
    bench.ended.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_was_computed_from_bytes_that_nobody_verified_is_not_kept() {
    let at = tempfile::TempDir::new().unwrap();
    let folder = std::sync::Arc::new(crate::kv_store::Folder::open(at.path(), None, 1 << 20).unwrap());
    let prompt: Vec<u32> = (0..3 * BLOCK_TOKENS as u32 + 5).map(|i| i * 7 % VOCAB).collect();
    for verdict in [Verdict::Corrupt("a chunk".into()), Verdict::Pending, Verdict::Sound] {
        let bench = start_keeping(&folder);
        bench.verdict.send_replace(verdict.clone());
        let mut output = bench.engine.submit(greedy(&prompt, 4)).unwrap();
        // The engine says that it is over, whatever the gate does; who reads past the gate is the service's business.
        while !matches!(output.next().await, None | Some(Event::Finished(_))) {}
        assert_eq!(bench.engine.watch().borrow().reused_tokens, 0, "{verdict:?}: nothing was kept before");
        drop((output, bench.engine));
        bench.ended.await.unwrap().unwrap();
    }
    assert!(std::fs::read_dir(at.path()).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        path.extension().is_some_and(|extension| extension == "blocks") && path.metadata().unwrap().len() > 0
    }));
}
