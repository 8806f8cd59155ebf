//! What a worker signs: the bytes are the same for ever, everything that is wrong with them has its own error, and
//! whatever is drawn from them can be drawn again.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use pictor_proof::crops::{CROPS, Crops};
use pictor_proof::draw::{Candidate, Purpose, Rate, Secret};
use pictor_proof::evidence::{BadEvidence, Evidence, SigningKey, commitment};
use pictor_proof::hex::{Commitment, Digest, Nonce, Signature};
use pictor_proof::manifest::{
    BYTES_MAX, DeviceClass, Engine, GpuSample, INTEGER_MAX, KEY_MAX, Manifest, OUTPUTS_MAX,
    SAMPLES_MAX, SignedOutput, Task, Timings, VERSION,
};
use pictor_proof::pixels::{Shape, SignedPixels};
use pictor_proof::verdict::{Verdict, Vote};
use pictor_tasks::message::{Execution, Output, RunId, StepKey, Try, WorkerId};
use proptest::prelude::*;

fn key() -> SigningKey {
    SigningKey::new(&[42; 32])
}

fn task() -> Task {
    Task {
        step: StepKey { run: RunId("r-7".into()), step: 1, generation: 2 },
        attempt: Try { index: 3, attempt: 4 },
        execution: Execution(0x0123_4567_89ab_cdef),
    }
}

fn manifest() -> Manifest {
    let output = Output {
        name: "image".to_owned(),
        key: "runs/r-7/1/3/0123456789abcdef/image.exr".to_owned(),
        digest: Digest::of(b"image").to_string(),
        size_bytes: 12_345,
    };
    let shape = Shape { width: 1920, height: 1080, channels: 4 };
    let engine = Engine {
        name: "blender".to_owned(),
        version: "4.5.15".to_owned(),
        build: "9b2c1f \"é\"".to_owned(),
    };
    Manifest {
        version: VERSION,
        task: task(),
        worker: key().public(),
        ticket: Digest::of(b"ticket"),
        inputs: Digest::of(b"inputs"),
        settings: Digest::of(b"settings"),
        seed: Some(4_711),
        device: DeviceClass {
            engine,
            backend: "OPTIX".to_owned(),
            architecture: "sm_90".to_owned(),
            driver: 570,
        },
        outputs: vec![SignedOutput {
            output,
            pixels: Some(SignedPixels { shape, root: Digest::of(b"root") }),
        }],
        timings: Timings {
            started_ms: 1_790_000_000_000,
            ended_ms: 1_790_000_005_000,
            active_ms: 4_900,
        },
        samples: vec![GpuSample {
            at_ms: 1_000,
            used_percent: 98,
            memory_mib: 4_096,
            clock_mhz: 1_980,
            power_mw: 612_345,
            celsius: 61,
        }],
        previous: None,
    }
}

fn error(change: impl FnOnce(&mut Manifest)) -> String {
    let mut manifest = manifest();
    change(&mut manifest);
    Evidence::sign(&manifest, &key()).unwrap_err().to_string()
}

fn signed(text: &str) -> BadEvidence {
    // Whoever holds a key can sign anything.
    use ed25519_dalek::Signer;
    let message = [pictor_proof::evidence::SIGNED_PREFIX, text.as_bytes()].concat();
    let signature = ed25519_dalek::SigningKey::from_bytes(&[42; 32]).sign(&message);
    let signature = Signature(signature.to_bytes());
    Evidence { manifest: text.to_owned(), signature }.verify().unwrap_err()
}

/// Whatever changes here can no longer verify, or draw again, what happened before.
#[test]
fn history_can_be_replayed() {
    let evidence = Evidence::sign(&manifest(), &key()).unwrap();
    let about = commitment(&task(), &key().public(), &evidence.digest());
    let secret = Secret::new([7; 32]);
    let shape = Shape { width: 1920, height: 1080, channels: 4 };
    let variance: Vec<f32> =
        (0..shape.blocks()).map(|i| if i % 7 == 0 { 0.5 } else { 0.1 }).collect();
    let crops: Vec<_> = Crops::new(&secret, &about, shape, &variance)
        .take(CROPS + 2)
        .map(|crop| (crop.x0, crop.y0, crop.x1, crop.y1))
        .collect();
    let candidates: Vec<_> =
        (1..9).map(|id| Candidate { worker: WorkerId(id), weight: id.into() }).collect();
    let choose = |purpose| {
        [0, 1, 2].map(|round| secret.choose(purpose, &about, round, &candidates).unwrap().0)
    };
    let checked =
        [50_000, 100_000, 200_000, 400_000, 800_000].map(|r| secret.checks(&about, Rate(r)));
    let canaries: Vec<_> =
        (0..60).filter_map(|round| Some((round, secret.canary(&about, round)?))).collect();
    let verdict =
        Verdict { vote: Vote::Accept, pixels: Digest::of(b"p"), measures: Digest::of(b"m") };
    let seal = verdict.seal(&about, &key().public(), &Nonce([5; 32]));
    insta::assert_snapshot!(format!(
        "manifest {}\nsignature {}\ndigest {}\ncommitment {about}\ncrops {crops:?}\nchecked {checked:?}\n\
         checkers {:?}\ndispute {:?}\ncanaries {canaries:?}\nseal {seal}",
        evidence.manifest,
        evidence.signature,
        evidence.digest(),
        choose(Purpose::Checker),
        choose(Purpose::Dispute),
    ));
}

/// The first test of RFC 8032, section 7.1.
#[test]
fn keys_are_those_of_the_standard() {
    let secret: Digest =
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60".parse().unwrap();
    assert_eq!(
        SigningKey::new(&secret.0).public().to_string(),
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    );
}

#[test]
fn evidence_is_verified_from_its_bytes() {
    let evidence = Evidence::sign(&manifest(), &key()).unwrap();
    let bytes = serde_json::to_vec(&evidence).unwrap();
    let read = Evidence::read(&bytes).unwrap();
    assert_eq!(read, evidence);
    assert_eq!(read.verify(), Ok(manifest()));
    assert_eq!(read.verify_for(&key().public(), &task()), Ok(manifest()));
    assert!(matches!(Evidence::read(b"{}"), Err(BadEvidence::Malformed(_))));
    let large = vec![b' '; 3 * BYTES_MAX];
    assert!(matches!(Evidence::read(&large), Err(BadEvidence::TooLarge { .. })));
}

#[test]
fn what_is_wrong_with_evidence_is_said() {
    let evidence = Evidence::sign(&manifest(), &key()).unwrap();
    let other = SigningKey::new(&[43; 32]);
    let wrong_key = evidence.verify_for(&other.public(), &task()).unwrap_err();
    assert_eq!(
        wrong_key,
        BadEvidence::AnotherKey { expected: other.public(), found: key().public() }
    );
    let elsewhere = Task { attempt: Try { index: 3, attempt: 5 }, ..task() };
    let error = evidence.verify_for(&key().public(), &elsewhere).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the manifest is for task 3 of run r-7 (attempt 4, execution 0123456789abcdef), not for the expected one"
    );
    // Another execution of the same attempt is another task too: a report cannot be replayed.
    let again = Task { execution: Execution(1), ..task() };
    assert!(matches!(
        evidence.verify_for(&key().public(), &again),
        Err(BadEvidence::AnotherTask(_))
    ));
    assert!(matches!(
        Evidence::sign(&Manifest { worker: other.public(), ..manifest() }, &key()),
        Err(BadEvidence::AnotherKey { .. })
    ));

    // Signed pixels that are exchanged afterwards, and a signature of somebody else.
    let root = Digest::of(b"root").to_string();
    let forged = evidence.manifest.replace(&root, &Digest::of(b"other").to_string());
    assert_ne!(forged, evidence.manifest);
    let forged = Evidence { manifest: forged, ..evidence.clone() };
    assert_eq!(forged.verify(), Err(BadEvidence::BadSignature(key().public())));
    let own = key().public().to_string();
    let theirs = evidence.manifest.replace(&own, &other.public().to_string());
    let theirs = Evidence { manifest: theirs, ..evidence.clone() };
    assert_eq!(theirs.verify(), Err(BadEvidence::BadSignature(other.public())));

    // Keys of small order, for which a signature of anything can be made.
    let weak = evidence.manifest.replace(&own, &format!("01{}", "0".repeat(62)));
    let weak = Evidence { manifest: weak, signature: Signature([0; 64]) };
    assert!(matches!(weak.verify(), Err(BadEvidence::BadKey(_))));
}

#[test]
fn only_the_canonical_form_is_accepted() {
    let text = Evidence::sign(&manifest(), &key()).unwrap().manifest;
    let not_canonical = [
        text.replacen(':', ": ", 1),
        text.replacen('{', "{\"also\":1,", 1),
        text.replace("\"attempt\":4", "\"attempt\":4,\"more\":[[[]]]"),
        text.replace("0123456789abcdef\"", "0123456789ABCDEF\""),
        text.replace('é', "\\u00e9"),
        text.replace("\"previous\":null,", ""),
        format!("{text}\n"),
    ];
    for wrong in not_canonical {
        assert_ne!(wrong, text);
        assert_eq!(signed(&wrong), BadEvidence::NotCanonical, "{wrong}");
    }
    let malformed = [
        text.replace("\"seed\":4711", "\"seed\":4711.5"),
        text.replace("\"seed\":4711", "\"seed\":4294967296"),
        text.replace("\"seed\":4711", "\"seed\":1,\"seed\":4711"),
        text.replace("\"version\":1", "\"version\":-1"),
        text.replace("0123456789abcdef\"", "10123456789abcdef\""),
        "[".repeat(BYTES_MAX),
        "null".to_owned(),
    ];
    for wrong in malformed {
        assert!(matches!(signed(&wrong), BadEvidence::Malformed(_)), "{wrong:.200}");
    }
    let later = text.replace("\"version\":1", "\"version\":2");
    let error = signed(&later).to_string();
    assert_eq!(error, "the manifest is not acceptable: `version` is 2, but only 1 is known");
    let large = signed(&text.replace("r-7", &"r".repeat(BYTES_MAX)));
    assert!(matches!(large, BadEvidence::TooLarge { most: BYTES_MAX, .. }));
}

#[test]
fn everything_has_a_limit() {
    let output = || manifest().outputs.remove(0);
    let errors = [
        error(|m| m.task.step.run = RunId("".into())),
        error(|m| m.device.engine.build = "x\n".to_owned()),
        error(|m| m.device.backend = "x".repeat(129)),
        error(|m| m.outputs = vec![output(); OUTPUTS_MAX + 1]),
        error(|m| m.outputs[0].output.key = "k".repeat(KEY_MAX + 1)),
        error(|m| m.outputs[0].output.digest = "0".repeat(63)),
        error(|m| m.outputs[0].output.size_bytes = INTEGER_MAX + 1),
        error(|m| m.outputs[0].pixels.as_mut().unwrap().shape.width = 0),
        error(|m| m.timings.ended_ms = INTEGER_MAX + 1),
        error(|m| m.timings.started_ms = m.timings.ended_ms + 1),
        error(|m| m.timings.active_ms = 5_001),
        error(|m| m.samples = vec![m.samples[0]; SAMPLES_MAX + 1]),
        error(|m| m.samples[0].used_percent = 101),
    ];
    insta::assert_snapshot!(errors.join("\n"));
    let many = Manifest { samples: vec![manifest().samples[0]; SAMPLES_MAX], ..manifest() };
    assert!(Evidence::sign(&many, &key()).is_ok());
    let long =
        SignedOutput { output: Output { key: "k".repeat(KEY_MAX), ..output().output }, ..output() };
    let large = Manifest { outputs: vec![long; OUTPUTS_MAX], ..manifest() };
    assert!(matches!(Evidence::sign(&large, &key()), Err(BadEvidence::TooLarge { .. })));
}

#[test]
fn a_commitment_is_for_one_task_worker_and_manifest() {
    let digest = Digest::of(b"manifest");
    let mut seen: Vec<Commitment> = Vec::new();
    let mut add = |task: &Task, key: &SigningKey, digest: &Digest| {
        let commitment = commitment(task, &key.public(), digest);
        assert!(!seen.contains(&commitment));
        seen.push(commitment);
    };
    add(&task(), &key(), &digest);
    add(&task(), &SigningKey::new(&[43; 32]), &digest);
    add(&task(), &key(), &Digest::of(b"other"));
    let changes: [fn(&mut Task); 6] = [
        |t| t.step.run = RunId("r-8".into()),
        |t| t.step.step = 2,
        |t| t.step.generation = 3,
        |t| t.attempt.index = 4,
        |t| t.attempt.attempt = 5,
        |t| t.execution = Execution(1),
    ];
    for change in changes {
        let mut other = task();
        change(&mut other);
        add(&other, &key(), &digest);
    }
    assert_eq!(format!("{:?}", key()), format!("SigningKey({})", key().public()));
}

proptest! {
    #[test]
    fn canonical_bytes_are_stable(
        name in "[^\\p{Cc}]{1,30}", build in "[^\\p{Cc}]{1,30}", seed: Option<u32>, execution: u64,
        size in 0..=INTEGER_MAX, started in 0..=INTEGER_MAX, driver: u32, celsius: i16,
        previous: Option<[u8; 32]>,
    ) {
        let mut manifest = manifest();
        manifest.outputs[0].output.name = name;
        manifest.outputs[0].output.size_bytes = size;
        manifest.device.engine.build = build;
        manifest.device.driver = driver;
        manifest.seed = seed;
        manifest.task.execution = Execution(execution);
        manifest.timings = Timings { started_ms: started, ended_ms: INTEGER_MAX, active_ms: 0 };
        manifest.samples[0].celsius = celsius;
        manifest.previous = previous.map(Digest);
        let evidence = Evidence::sign(&manifest, &key()).unwrap();
        prop_assert_eq!(&evidence.verify().unwrap(), &manifest);
        // Another program that sorts the fields gets the same bytes: all names are ASCII, all numbers are integers.
        let value: serde_json::Value = serde_json::from_str(&evidence.manifest).unwrap();
        prop_assert_eq!(serde_json_canonicalizer::to_string(&value).unwrap(), evidence.manifest);
    }

    #[test]
    fn any_change_is_noticed(at: prop::sample::Index, to: u8, signature: bool) {
        let evidence = Evidence::sign(&manifest(), &key()).unwrap();
        let mut changed = evidence.clone();
        if signature {
            changed.signature.0[at.index(64)] = to;
        } else {
            let mut bytes = changed.manifest.into_bytes();
            let at = at.index(bytes.len());
            bytes[at] = to;
            changed.manifest = String::from_utf8_lossy(&bytes).into_owned();
        }
        prop_assert_eq!(changed.verify().is_ok(), changed == evidence);
    }

    #[test]
    fn any_bytes_are_read(bytes: Vec<u8>, text: String) {
        if let Ok(evidence) = Evidence::read(&bytes) {
            prop_assert!(evidence.verify().is_err());
        }
        let evidence = Evidence { manifest: text, signature: Signature([1; 64]) };
        prop_assert!(evidence.verify().is_err());
    }
}
