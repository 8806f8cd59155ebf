//! How renders are told apart, with noise that is made as a path tracer makes it: each pixel is the mean of random
//! samples that depend on the seed.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use pictor_proof::compare::{Likeness, Measure, NOISE_MIN, Renders, Whose, likeness, measure};
use pictor_proof::crops::CROPS;
use pictor_proof::judge::{CROPS_MAX, Decision, Reason, judge, judge_upscale, missing};
use pictor_proof::thresholds::{Limits, Thresholds};
use proptest::prelude::*;

const SIDE: u32 = 64;
const CHANNELS: usize = 3;

/// A number from 0 to 1 that depends on all of these.
fn random(seed: u32, pixel: u32, sample: u32) -> f32 {
    let mut bits = u64::from(seed) << 48 ^ u64::from(pixel) << 16 ^ u64::from(sample);
    for _ in 0..2 {
        bits = (bits ^ bits >> 31).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        bits ^= bits >> 29;
    }
    f32::from(u16::try_from(bits >> 48).unwrap()) / 65_536.0
}

/// A crop of a scene, rendered with a seed and so many samples.
fn render(seed: u32, samples: u16) -> Vec<f32> {
    let pixel = |pixel: u32| {
        let content = 0.2 + 0.6 * random(0, pixel / 96, 0);
        let sum: f32 = (0..samples).map(|sample| random(seed, pixel, sample.into())).sum();
        let light = content * sum / f32::from(samples);
        [light, 0.8 * light, 0.5 * light]
    };
    (0..SIDE * SIDE).flat_map(pixel).collect()
}

fn of(worker: &[f32]) -> Measure {
    let (same_seed, other_seed) = (&render(1, 64), &render(2, 64));
    measure(&Renders { worker, same_seed, other_seed, channels: CHANNELS })
}

fn q(worker: &[f32]) -> f64 {
    match of(worker) {
        Measure::Noise { q, .. } => q,
        other => panic!("{other:?}"),
    }
}

fn scaled(by: f32) -> Vec<f32> {
    render(1, 64).iter().map(|value| value * by).collect()
}

/// A denoiser: the mean of a pixel and its neighbours in the row.
fn denoised(of: &[f32]) -> Vec<f32> {
    let at = |i: usize| of[i.min(of.len() - 1)];
    let near =
        |i: usize| at(i) + at(i + CHANNELS) + at(i + 2 * CHANNELS) + at(i.saturating_sub(CHANNELS));
    (0..of.len()).map(|i| near(i) / 4.0).collect()
}

#[test]
fn honest_work_is_alike_and_cheats_are_not() {
    assert_eq!(of(&render(1, 64)), Measure::Noise { q: 0.0, q_unclipped: 0.0, z: 0.0 });
    // What a scene varies by from run to run.
    let varied: Vec<f32> =
        (0..).zip(render(1, 64)).map(|(i, v)| if i % 200 == 0 { v + 1.8e-6 } else { v }).collect();
    assert!(q(&varied) < 1e-5, "{}", q(&varied));
    assert!((q(&render(3, 64)) - 1.0).abs() < 0.05, "another seed: {}", q(&render(3, 64)));
    // The first n of 64 samples, right seed.
    for samples in [60_u16, 48, 32, 16] {
        let expected = ((64.0 / f64::from(samples) - 1.0) / 2.0).sqrt();
        let found = q(&render(1, samples));
        assert!((found - expected).abs() < 0.1 * expected, "{samples}: {found}, not {expected}");
    }
    for cheat in [denoised(&render(1, 16)), denoised(&render(3, 16)), vec![0.0; 12_288]] {
        assert!(q(&cheat) > Limits::ACROSS.good, "{}", q(&cheat));
    }
    let within = |worker: &[f32]| judge(vec![of(worker)], &Limits::WITHIN).decision;
    assert_eq!(within(&varied), Decision::Pass);
    assert_eq!(within(&render(1, 60)), Decision::Fail);
    assert_eq!(within(&scaled(0.999)), Decision::Fail);
}

/// A little less light everywhere has a small Q, but all differences point the same way.
#[test]
fn a_bias_is_found_where_q_is_small() {
    let worker = scaled(0.985);
    let Measure::Noise { q, z, .. } = of(&worker) else { panic!() };
    assert!(q < Limits::ACROSS.bad && z < -Limits::ACROSS.bias, "{q} {z}");
    let Measure::Noise { z: up, .. } = of(&scaled(1.015)) else { panic!() };
    assert!(up > Limits::ACROSS.bias, "{up}");
    // Other noise without a bias has a small z: 100 independent crops stay far below the limit.
    for seed in 3..103 {
        let Measure::Noise { z, .. } = of(&render(seed, 64)) else { panic!() };
        assert!(z.abs() < 4.0, "{seed}: {z}");
    }
}

#[test]
fn what_clipping_hides_is_found() {
    let mut worker = render(1, 64);
    let Measure::Noise { q, .. } = of(&worker) else { panic!() };
    worker.iter_mut().step_by(7).for_each(|value| *value = -1e3);
    let mut dark = render(1, 64);
    dark.iter_mut().step_by(7).for_each(|value| *value = 0.0);
    let (reference, other) = (dark, render(2, 64));
    let renders =
        Renders { worker: &worker, same_seed: &reference, other_seed: &other, channels: CHANNELS };
    let Measure::Noise { q: clipped, q_unclipped, .. } = measure(&renders) else { panic!() };
    assert!(q.abs() < 1e-12 && clipped.abs() < 1e-12 && q_unclipped > 1.0);
    let judged = judge(vec![measure(&renders)], &Limits::WITHIN);
    assert_eq!((judged.decision, judged.reason), (Decision::Fail, Reason::Unclipped(q_unclipped)));
}

#[test]
fn crops_without_noise_are_compared_by_what_is_seen() {
    let plain = vec![0.5; 300];
    let of = |worker: &[f32]| {
        let renders = Renders { worker, same_seed: &plain, other_seed: &plain, channels: CHANNELS };
        judge(vec![measure(&renders)], &Limits::WITHIN)
    };
    assert_eq!(of(&plain).decision, Decision::Pass);
    let mut close = plain.clone();
    close[7] = 0.51;
    assert_eq!(of(&close).decision, Decision::Pass);
    close[7] = 0.52;
    let judged = of(&close);
    assert_eq!((judged.decision, judged.crop), (Decision::Fail, Some(0)));
    assert!(matches!(judged.reason, Reason::Flat(by) if by > 2.0 / 255.0 && by < 4.0 / 255.0));
    // Brighter than white, or darker than black: nothing is seen, but later steps use it.
    let bright = vec![9.0; 300];
    let renders =
        Renders { worker: &bright, same_seed: &[2.0; 300], other_seed: &[2.0; 300], channels: 3 };
    assert_eq!(judge(vec![measure(&renders)], &Limits::WITHIN).decision, Decision::Fail);
}

#[test]
fn a_crop_is_without_noise_below_a_limit() {
    let of = |other: f32| {
        let (same_seed, other_seed) = (&[0.5; 12][..], &[other; 12][..]);
        measure(&Renders { worker: same_seed, same_seed, other_seed, channels: CHANNELS })
    };
    // The difference of logarithms is two thirds of that of the values.
    assert_eq!(of(0.502), FLAT);
    assert_eq!(of(0.504), noise(0.0));
}

fn noise(q: f64) -> Measure {
    Measure::Noise { q, q_unclipped: q, z: 0.0 }
}

const FLAT: Measure = Measure::Flat { difference: 0.0, unclipped: 0.0 };

#[test]
fn decisions_follow_the_limits() {
    use Decision::{Fail, Pass, Rerender};
    let across = |q: &[f64]| judge(q.iter().copied().map(noise).collect(), &Limits::ACROSS);
    let table: [(&[f64], Decision, Option<usize>, Reason); 9] = [
        (&[0.0, 0.1, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], Pass, None, Reason::Alike),
        (&[0.0, 0.6, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], Pass, None, Reason::Alike),
        (&[0.0, 0.61, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], Fail, Some(1), Reason::Noise(0.61)),
        (&[0.0, 0.2, 0.2, 0.0, 0.0, 0.0, 0.0, 0.0], Rerender, None, Reason::TooFewGood(6)),
        (&[0.07, 0.07, 0.07, 0.07, 0.07, 0.0, 0.0, 0.0], Rerender, None, Reason::Median(0.07)),
        (&[0.0, 0.0, 0.0, 0.11], Rerender, None, Reason::TooFewGood(3)),
        (&[], Rerender, None, Reason::Nothing),
        (&[0.05, 0.05], Pass, None, Reason::Alike),
        (&[0.01, 0.08], Pass, None, Reason::Alike),
    ];
    for (q, decision, crop, reason) in table {
        let judged = across(q);
        assert_eq!(
            (judged.decision, judged.crop, judged.reason),
            (decision, crop, reason),
            "{q:?}"
        );
        assert!(!judged.calibrated);
    }
    let within = |q| judge(vec![noise(q); CROPS], &Limits::WITHIN).decision;
    assert_eq!([0.0, 0.001, 0.001_1, 0.19].map(within), [Pass, Pass, Fail, Fail]);
    let biased = Measure::Noise { q: 0.0, q_unclipped: 0.0, z: -5.0 };
    let judged = judge(vec![noise(0.0), biased], &Limits::ACROSS);
    assert_eq!((judged.decision, judged.reason), (Rerender, Reason::Bias(5.0)));
    assert_eq!(judge(vec![FLAT; CROPS_MAX], &Limits::WITHIN).decision, Pass);
}

#[test]
fn another_crop_is_drawn_for_one_without_noise() {
    let of =
        |flat: usize, noisy: usize| missing(&[vec![FLAT; flat], vec![noise(0.0); noisy]].concat());
    assert_eq!([of(0, 0), of(0, 8), of(3, 5), of(8, 0), of(12, 0), of(16, 0)], [8, 0, 3, 8, 4, 0]);
}

#[test]
fn bad_values_are_blamed_on_whoever_sent_them() {
    let fine = render(1, 4);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut broken = fine.clone();
        broken[100] = bad;
        let of = |worker, same_seed, other_seed| {
            let renders = Renders { worker, same_seed, other_seed, channels: CHANNELS };
            let judged = judge(vec![measure(&renders)], &Limits::WITHIN);
            (judged.decision, judged.reason)
        };
        let worker = (Decision::Fail, Reason::NotFinite(Whose::Worker));
        let checker = (Decision::Rerender, Reason::NotFinite(Whose::Checker));
        assert_eq!(of(&broken, &fine, &fine), worker);
        assert_eq!(of(&broken, &broken, &fine), worker);
        assert_eq!(of(&fine, &broken, &fine), checker);
        assert_eq!(of(&fine, &fine, &broken), checker);
        let short = (Decision::Fail, Reason::WrongSize(Whose::Worker));
        assert_eq!(of(&fine[3..], &fine, &fine), short);
        assert_eq!(
            of(&fine, &fine, &fine[3..]),
            (Decision::Rerender, Reason::WrongSize(Whose::Checker))
        );
        assert_eq!(of(&[], &[], &[]), (Decision::Rerender, Reason::WrongSize(Whose::Checker)));
    }
}

#[test]
fn upscales_are_equal_within_a_class_and_close_across() {
    let limits = Thresholds::default().upscale;
    let base: Vec<f32> = render(1, 64);
    let shifted = |by: f32| base.iter().map(|value| value + by).collect::<Vec<_>>();
    let mut one = base.clone();
    one[5] += 4.0 / 255.0;
    let across = |other: &[f32]| judge_upscale(likeness(other, &base), Some(&limits)).0;
    let within = |other: &[f32]| judge_upscale(likeness(other, &base), None).0;
    assert_eq!((within(&base), across(&base)), (Decision::Pass, Decision::Pass));
    assert_eq!((within(&shifted(1e-3)), across(&shifted(1e-3))), (Decision::Fail, Decision::Pass));
    assert_eq!(across(&shifted(8e-3)), Decision::Fail, "42 dB");
    assert_eq!(across(&one), Decision::Fail, "one value");
    let Likeness::Different { decibels, .. } = likeness(&shifted(0.01), &base) else { panic!() };
    assert!((decibels - 40.0).abs() < 0.01, "{decibels}");
    let nan = [f32::NAN];
    assert_eq!(judge_upscale(likeness(&nan, &[0.0]), None).0, Decision::Fail);
    assert_eq!(judge_upscale(likeness(&[0.0], &nan), None).0, Decision::Rerender);
    assert_eq!(judge_upscale(likeness(&[0.0], &[]), None).0, Decision::Fail);
}

fn floats() -> impl Strategy<Value = Vec<f32>> {
    let any = prop_oneof![any::<f32>(), -1.0..10.0_f32, Just(f32::MAX), Just(f32::MIN_POSITIVE)];
    proptest::collection::vec(any, 0..24)
}

proptest! {
    #[test]
    fn any_values_are_measured(a in floats(), b in floats(), c in floats(), channels in 0..5_usize) {
        let size = a.len().min(b.len()).min(c.len());
        for (worker, same_seed, other_seed) in
            [(&*a, &*b, &*c), (&a[..size], &b[..size], &c[..size]), (&a, &a, &a)]
        {
            let measured = measure(&Renders { worker, same_seed, other_seed, channels });
            match measured {
                Measure::Noise { q, q_unclipped, z } => {
                    prop_assert!((0.0..=9.0_f64.ln() / NOISE_MIN).contains(&q));
                    prop_assert!((0.0..=180.0 / NOISE_MIN).contains(&q_unclipped));
                    prop_assert!(z.abs() <= 1e6);
                }
                Measure::Flat { difference, unclipped } => {
                    prop_assert!((0.0..=1.0).contains(&difference) && (0.0..180.0).contains(&unclipped));
                }
                Measure::NotFinite { .. } | Measure::WrongSize { .. } => {}
            }
            for limits in [Limits::WITHIN, Limits::ACROSS] {
                let judged = judge(vec![measured; 3], &limits);
                let text = serde_json::to_string(&judged).unwrap();
                prop_assert_eq!(serde_json::from_str::<pictor_proof::judge::Judgement>(&text).unwrap(), judged);
            }
            let _ = likeness(worker, same_seed);
        }
    }

    /// Q is a distance: 0 from itself, 1 from the other seed, and between them as the triangle says.
    #[test]
    fn q_is_a_distance(a in proptest::collection::vec(-1.0..10.0_f32, 24), b: u8, c: u8) {
        let other = |by: u8| a.iter().map(|v| (v * f32::from(by)).sin() * 9.0).collect::<Vec<_>>();
        let (same_seed, other_seed) = (&*other(b), &*other(c));
        let of = |worker: &[f32], same_seed, other_seed| {
            match measure(&Renders { worker, same_seed, other_seed, channels: 4 }) {
                Measure::Noise { q, .. } => Some(q),
                _ => None,
            }
        };
        if let (Some(near), Some(far)) = (of(&a, same_seed, other_seed), of(&a, other_seed, same_seed)) {
            prop_assert_eq!(of(same_seed, same_seed, other_seed), Some(0.0));
            prop_assert_eq!(of(other_seed, same_seed, other_seed), Some(1.0));
            prop_assert!(near + far >= 1.0 - 1e-9 && (near - far).abs() <= 1.0 + 1e-9);
        }
    }

    #[test]
    fn worse_crops_never_make_a_better_decision(
        q in proptest::collection::vec(0.0..0.8_f64, 1..16), at: prop::sample::Index,
    ) {
        let rank = |q: &[f64]| match judge(q.iter().copied().map(noise).collect(), &Limits::ACROSS).decision {
            Decision::Pass => 0,
            Decision::Rerender => 1,
            Decision::Fail => 2,
        };
        let before = rank(&q);
        let mut worse = q.clone();
        worse[at.index(q.len())] += 0.3;
        prop_assert!(rank(&worse) >= before);
    }
}
