use super::{at_every_level, numbers, pool};
use crate::cpu::attention::attention;
use crate::cpu::dispatch::{Level, On};
use crate::cpu::kv::{self, Element, Heads};
use crate::cpu::vector::Plain;
use crate::{BLOCK_TOKENS, Scores, Segment};
use half::f16;

/// A sequence's keys and values, `[position, kv heads, dim]`, and its queries.
struct Sequence {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    length: usize,
}

fn sequence(seed: u64, length: usize, heads: Heads) -> Sequence {
    Sequence {
        q: numbers(seed, length * heads.query * heads.dim),
        k: numbers(seed + 1, length * heads.kv * heads.dim),
        v: numbers(seed + 2, length * heads.kv * heads.dim),
        length,
    }
}

/// One query in float64: `position`'s head `head`.
fn reference(s: &Sequence, heads: Heads, position: usize, head: usize, scoring: Scores) -> Vec<f64> {
    let Heads { query, kv, dim } = heads;
    let at = |of: &[f32], position: usize, count: usize, head: usize| -> Vec<f64> {
        let row = &of[(position * count + head) * dim..][..dim];
        row.iter().map(|x| f64::from(*x)).collect()
    };
    let kv_head = head / (query / kv);
    let q = at(&s.q, position, query, head);
    let first = scoring.first_seen(position);
    let scores: Vec<f64> = (first..=position)
        .map(|p| {
            let k = at(&s.k, p, kv, kv_head);
            q.iter().zip(k).map(|(q, k)| q * k).sum::<f64>() * f64::from(scoring.scale)
        })
        .collect();
    let total: f64 = scores.iter().map(|s| s.exp()).sum();
    let mut out = vec![0.0; dim];
    for (p, score) in scores.iter().enumerate() {
        let v = at(&s.v, first + p, kv, kv_head);
        for (out, v) in out.iter_mut().zip(v) {
            *out += v * score.exp() / total;
        }
    }
    out
}

/// Blocks in an order that is not theirs, filled with what must not be read.
struct Pages<T> {
    keys: Vec<T>,
    values: Vec<T>,
    tables: Vec<Vec<u32>>,
}

fn pages<T: Element>(sequences: &[Sequence], heads: Heads) -> Pages<T> {
    let mut free = 1;
    let mut tables: Vec<Vec<u32>> = Vec::new();
    for s in sequences {
        let count = s.length.div_ceil(BLOCK_TOKENS) as u32;
        tables.push((free..free + count).rev().collect());
        free += count;
    }
    let len = free as usize * heads.kv * (heads.block_elements() + T::SCALES);
    let mut stale = vec![T::default(); len];
    T::narrow::<Plain>(&vec![f32::NAN; len], &mut stale);
    for block in stale.chunks_exact_mut(heads.block_elements() + T::SCALES) {
        (0..BLOCK_TOKENS).for_each(|slot| T::put_scale(&mut block[heads.block_elements()..], slot, f32::NAN));
    }
    Pages { keys: stale.clone(), values: stale, tables }
}

/// Runs positions `from..to` of each sequence, all in one call; the result per sequence.
fn step<T: Element>(
    on: On,
    pages: &mut Pages<T>,
    sequences: &[Sequence],
    heads: Heads,
    ranges: &[std::ops::Range<usize>],
    scoring: Scores,
) -> Vec<Vec<f32>> {
    let (mut q, mut k, mut v) = (Vec::new(), Vec::new(), Vec::new());
    let mut segments = Vec::new();
    let mut row = 0;
    for ((s, range), blocks) in sequences.iter().zip(ranges).zip(&pages.tables) {
        let take = |of: &[f32], width: usize| of[range.start * width..range.end * width].to_vec();
        q.extend(take(&s.q, heads.query * heads.dim));
        k.extend(take(&s.k, heads.kv * heads.dim));
        v.extend(take(&s.v, heads.kv * heads.dim));
        segments.push(Segment { row, rows: range.len(), position: range.start, blocks: blocks.clone() });
        row += range.len();
    }
    let cache = (&mut pages.keys[..], &mut pages.values[..]);
    kv::write(on, (&k, &v), cache, heads, &segments);
    let mut out = vec![f32::NAN; q.len()];
    let cache = (&pages.keys[..], &pages.values[..]);
    attention(on, &q, cache, heads, &segments, scoring, &mut out);
    let width = heads.query * heads.dim;
    let mut rest = &out[..];
    let parts = ranges.iter().map(|range| {
        let (part, after) = rest.split_at(range.len() * width);
        rest = after;
        part.to_vec()
    });
    parts.collect()
}

fn check<T: Element>(heads: Heads, scoring: Scores, bound: f64) {
    check_lengths::<T>(&[1, 31, 32, 33, 64, 100], heads, scoring, bound);
}

fn check_lengths<T: Element>(lengths: &[usize], heads: Heads, scoring: Scores, bound: f64) {
    let scoring = Scores { scale: scoring.scale / (heads.dim as f32).sqrt(), ..scoring };
    let sequences: Vec<Sequence> = (0u64..).zip(lengths).map(|(i, &length)| sequence(i * 10, length, heads)).collect();
    at_every_level(3, |on| {
        let mut pages = pages::<T>(&sequences, heads);
        let whole: Vec<_> = lengths.iter().map(|&length| 0..length).collect();
        let out = step(on, &mut pages, &sequences, heads, &whole, scoring);
        for (s, out) in sequences.iter().zip(&out) {
            for position in 0..s.length {
                for head in 0..heads.query {
                    let expected = reference(s, heads, position, head, scoring);
                    let at = (position * heads.query + head) * heads.dim;
                    for (x, e) in out[at..].iter().zip(&expected) {
                        let error = (f64::from(*x) - e).abs();
                        assert!(error <= bound, "{:?} {heads:?}: {x} is not {e}", on.level);
                    }
                }
            }
        }
    });
}

#[test]
fn several_sequences_over_block_borders_agree_with_float64() {
    for (query, kv, dim) in [(2, 2, 32), (9, 3, 64), (8, 2, 16), (3, 1, 42), (4, 1, 128)] {
        let scaled = Scores::scaled(1.0);
        check::<f32>(Heads { query, kv, dim }, scaled, 2e-6);
        // Keys and values between -1 and 1 are off by at most 2^-12 each.
        check::<f16>(Heads { query, kv, dim }, scaled, 1e-3);
        // At most 1/254 each.
        check::<i8>(Heads { query, kv, dim }, scaled, 1e-2);
    }
}

#[test]
fn windows_agree_with_float64() {
    for window in [1, 5, 31, 32, 33, 70, 200] {
        let scoring = Scores { scale: 3.0, window: Some(window) };
        check::<f32>(Heads { query: 5, kv: 1, dim: 20 }, scoring, 2e-6);
    }
}

#[test]
fn several_spans_agree_with_float64() {
    let heads = Heads { query: 3, kv: 1, dim: 16 };
    for window in [None, Some(1), Some(255), Some(256), Some(300)] {
        check_lengths::<f32>(&[256, 257, 530], heads, Scores { scale: 3.0, window }, 2e-6);
    }
}

#[test]
fn in_chunks_alone_or_together_gives_the_same_bits() {
    same_bits::<f16>(Scores::scaled(0.2), [77, 40], &[5, 6, 31, 32, 33]);
    same_bits::<f16>(Scores { scale: 0.2, window: Some(19) }, [77, 40], &[5, 6, 31, 32, 33]);
    same_bits::<i8>(Scores { scale: 0.2, window: Some(19) }, [77, 40], &[5, 6, 31, 32, 33]);
}

/// One row alone has as many queries as its group, several rows are worked on in other numbers of queries.
#[test]
fn groups_and_heads_of_all_sizes_give_the_same_bits() {
    for (group, dim) in [(1, 64), (2, 112), (3, 64), (4, 120), (5, 128), (7, 80)] {
        let heads = Heads { query: 2 * group, kv: 2, dim };
        same_bits_of::<f16>(heads, Scores::scaled(0.2), [41, 34], &[1, 2, 3, 31, 32, 33]);
        same_bits_of::<i8>(heads, Scores { scale: 0.2, window: Some(19) }, [41, 34], &[1, 2, 3, 31, 32, 33]);
    }
}

/// Few rows behind many positions are cut among threads along the positions, many rows are not.
#[test]
fn over_several_spans_cut_or_not_gives_the_same_bits() {
    for window in [None, Some(19), Some(256), Some(700)] {
        let scoring = Scores { scale: 0.2, window };
        same_bits::<f16>(scoring, [800, 530], &[255, 256, 257, 510, 512, 520, 527, 529]);
        same_bits::<i8>(scoring, [800, 530], &[255, 256, 257, 510, 512, 520, 527, 529]);
    }
}

/// Where there are many heads of keys a task has several of them, and not always as many as the others.
#[test]
fn several_heads_and_spans_cut_or_not_give_the_same_bits() {
    for (query, kv) in [(16, 8), (7, 7), (33, 11)] {
        let heads = Heads { query, kv, dim: 32 };
        for window in [None, Some(300)] {
            let scoring = Scores { scale: 0.2, window };
            same_bits_of::<f16>(heads, scoring, [1100, 800], &[760, 769, 770, 772, 776, 799]);
        }
    }
}

/// What a key or value is kept as in 16 bits, by every instruction set, in whole vectors and behind them.
#[test]
fn halves_are_the_nearest_that_there_are() {
    let some = [
        0.0,
        -0.0,
        1.0,
        -1.5,
        1e6,
        -1e6,
        f32::INFINITY,
        f32::NEG_INFINITY,
        65504.0,
        65519.0,
        65520.0,
        -65520.0,
        1e-7,
        -3e-8,
        1e-40,
        2048.0,
        2049.0,
        2051.0,
        6e-5,
        6.1e-5,
        f32::MAX,
        f32::MIN_POSITIVE,
        0.1,
        -0.3,
        f32::NAN,
        3.0,
    ];
    let heads = Heads { query: 1, kv: 1, dim: 42 };
    at_every_level(1, |on| {
        let row: Vec<f32> = (0..heads.dim).map(|i| some[i % some.len()]).collect();
        let mut cache = [vec![f16::ZERO; heads.block_elements()], vec![f16::ZERO; heads.block_elements()]];
        let [keys, values] = &mut cache;
        let segment = Segment { row: 0, rows: 1, position: 0, blocks: vec![0] };
        kv::write(on, (&row, &row), (keys, values), heads, &[segment]);
        for (i, x) in row.iter().enumerate() {
            let want = f16::from_f32(x.clamp(-65504.0, 65504.0));
            for got in [keys[i * BLOCK_TOKENS], values[i]] {
                let same = got.to_bits() == want.to_bits() || got.is_nan() && x.is_nan();
                assert!(same, "{:?}: {x} became {got}, not {want}", on.level);
            }
        }
    });
}

#[test]
fn a_row_in_eight_bits_is_as_near_as_said_and_has_no_surprises() {
    let mut row = [0i8; 4];
    for values in [[0.0, -2.0, 1.0, 0.01], [1e-40, 0.0, 0.0, -1e-41], [f32::INFINITY, 1.0, 0.0, -1.0], [0.0; 4]] {
        let scale = i8::narrow::<Plain>(&values, &mut row);
        assert!(scale.is_finite() && scale >= 0.0, "{values:?}");
        let largest = values.iter().fold(0f32, |most, x| most.max(x.abs())).min(f32::MAX);
        for (value, number) in values.iter().zip(row) {
            let error = (f32::from(number) * scale - value.clamp(f32::MIN, f32::MAX)).abs();
            assert!(error <= largest * 1.0001 / 254.0 || largest < f32::MIN_POSITIVE, "{value} is {number} of {scale}");
        }
    }
    assert!(i8::narrow::<Plain>(&[1.0, f32::NAN, 2.0, 3.0], &mut row).is_nan());
}

/// Both sequences at once on four threads, and each alone on one and on four, in pieces that begin at `cuts`.
fn same_bits<T: Element>(scoring: Scores, lengths: [usize; 2], cuts: &[usize]) {
    same_bits_of::<T>(Heads { query: 6, kv: 2, dim: 32 }, scoring, lengths, cuts);
}

fn same_bits_of<T: Element>(heads: Heads, scoring: Scores, lengths: [usize; 2], cuts: &[usize]) {
    let sequences = [sequence(1, lengths[0], heads), sequence(5, lengths[1], heads)];
    let (one, four) = (pool(1), pool(4));
    for (level, threads) in Level::available().into_iter().flat_map(|level| [(level, one), (level, four)]) {
        let mut together = pages::<T>(&sequences, heads);
        let on = On { level, pool: four };
        let all = step(on, &mut together, &sequences, heads, &lengths.map(|length| 0..length), scoring);
        for (s, expected) in sequences.iter().zip(&all) {
            let s = std::slice::from_ref(s);
            let mut alone = pages::<T>(s, heads);
            let on = On { level, pool: threads };
            let mut out = Vec::new();
            let cuts: Vec<usize> = [&[0], cuts, &[s[0].length]].concat();
            for cut in cuts.windows(2) {
                let range = std::slice::from_ref(&(cut[0]..cut[1])).to_vec();
                out.extend(step(on, &mut alone, s, heads, &range, scoring).remove(0));
            }
            let bits = |out: &[f32]| out.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert!(bits(expected) == bits(&out), "{level:?}");
        }
    }
}
