//! How different two renders may be, as data: within a class of devices, across classes, and for pairs of classes that
//! somebody measured. What was never measured says so.

use crate::manifest::{DeviceClass, Engine};
use serde::{Deserialize, Serialize};

/// How different two renders of one crop may be. Distances are values of Q, as
/// [`crate::compare::Measure::Noise`] defines it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// A crop with at most this Q is good.
    pub good: f64,
    /// Of eight crops, how many must be good; of fewer crops as large a share, rounded up.
    pub good_of_eight: u8,
    /// The largest median of Q over the crops.
    pub median: f64,
    /// A crop with more than this Q proves another render. Between is not decided.
    pub bad: f64,
    /// The largest Q without the clipping to 0 to 8, which hides what a worker does to very bright or negative pixels.
    pub bad_unclipped: f64,
    /// The smallest |z| of Welch's test that shows a bias.
    pub bias: f64,
    /// The largest difference in a crop without noise, of display values from 0 to 1.
    pub flat: f64,
    /// Whether the limits come from measurements of these classes.
    pub calibrated: bool,
}

/// The largest difference that nobody sees: 2 of 255 steps.
const FLAT: f64 = 2.0 / 255.0;

impl Limits {
    /// Within one class. Equal means Q <= 0.001: some scenes differ by 2e-6 from run to run (Q about 1e-7), and the
    /// smallest cheat that was measured has 0.19.
    pub const WITHIN: Self = Self {
        good: 0.001,
        good_of_eight: 8,
        median: 0.001,
        bad: 0.001,
        bad_unclipped: 0.05,
        bias: 5.0,
        flat: FLAT,
        calibrated: true,
    };
    /// Across classes, until somebody has measured them.
    pub const ACROSS: Self = Self {
        good: 0.10,
        good_of_eight: 7,
        median: 0.05,
        bad: 0.60,
        bad_unclipped: 0.60,
        bias: 5.0,
        flat: FLAT,
        calibrated: false,
    };
}

/// How different the results of a neural network may be across classes; within a class they are equal.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpscaleLimits {
    /// The smallest ratio of peak signal to noise, in decibels.
    pub decibels: f64,
    /// The largest difference, of values from 0 to 1.
    pub difference: f64,
    /// Whether the limits come from measurements.
    pub calibrated: bool,
}

/// Which classes a rule is for: those that agree with everything that is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Classes {
    /// The engine's version, such as `4.5.15`.
    pub version: Option<String>,
    /// The engine's build.
    pub build: Option<String>,
    /// The backend, such as `OPTIX`.
    pub backend: Option<String>,
    /// The architecture, such as `sm_90`.
    pub architecture: Option<String>,
    /// The driver's major version.
    pub driver: Option<u32>,
}

/// Limits for a pair of classes that was measured. The order of the two does not matter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pair {
    /// The one class.
    pub one: Classes,
    /// The other.
    pub other: Classes,
    /// The limits.
    pub limits: Limits,
}

/// Versions of an engine that draw the same random numbers for one seed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sampler {
    /// The engine's name, such as `blender`.
    pub engine: String,
    /// The first numbers of its versions, such as `4` or `4.5`.
    pub versions: Vec<String>,
}

/// All limits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Thresholds {
    /// Within one class.
    pub within: Limits,
    /// Across classes, unless a pair says otherwise.
    pub across: Limits,
    /// Across classes, for neural networks.
    pub upscale: UpscaleLimits,
    /// Pairs of classes; the first that fits counts.
    pub pairs: Vec<Pair>,
    /// Which versions may be compared. Those that no entry names are only compared with themselves.
    pub samplers: Vec<Sampler>,
}

impl Default for Thresholds {
    fn default() -> Self {
        let blender = |versions: &[&str]| Sampler {
            engine: "blender".to_owned(),
            versions: versions.iter().map(|version| (*version).to_owned()).collect(),
        };
        Self {
            within: Limits::WITHIN,
            across: Limits::ACROSS,
            upscale: UpscaleLimits { decibels: 45.0, difference: 3.0 / 255.0, calibrated: false },
            pairs: Vec::new(),
            samplers: vec![blender(&["3"]), blender(&["4", "5"])],
        }
    }
}

/// Why a device cannot check the work of another: their renders differ as much as with two seeds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{worker} and {checker} are not known to draw the same random numbers, so neither can check the other"
)]
pub struct Incomparable {
    /// What the worker used, such as `blender 3.4.1`.
    pub worker: String,
    /// What the checker has.
    pub checker: String,
}

/// Limits that a configuration may not have: nothing would exceed a limit that is no number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "limits must be numbers from 0, `good` at most `bad`, and `good_of_eight` from 1 to 8: see `{0}`"
)]
pub struct BadLimits(pub &'static str);

impl Thresholds {
    /// Checks what was read from a configuration.
    pub fn check(&self) -> Result<(), BadLimits> {
        let number = |value: f64| value.is_finite() && value >= 0.0;
        let fits = |l: &Limits| {
            [l.good, l.median, l.bad, l.bad_unclipped, l.bias, l.flat].into_iter().all(number)
                && l.good <= l.bad
                && (1..=8).contains(&l.good_of_eight)
        };
        let said = |fits: bool, name| if fits { Ok(()) } else { Err(BadLimits(name)) };
        said(fits(&self.within), "within")?;
        said(fits(&self.across), "across")?;
        said(number(self.upscale.decibels) && number(self.upscale.difference), "upscale")?;
        said(self.pairs.iter().all(|pair| fits(&pair.limits)), "pairs")
    }

    /// The limits for a worker's class and a checker's. The order of the two does not matter.
    pub fn limits(
        &self,
        worker: &DeviceClass,
        checker: &DeviceClass,
    ) -> Result<&Limits, Incomparable> {
        if worker == checker {
            return Ok(&self.within);
        }
        let (one, other) = (&worker.engine, &checker.engine);
        let same = one.name == other.name && one.version == other.version;
        if !same && !self.samplers.iter().any(|s| s.has(one) && s.has(other)) {
            let name = |engine: &Engine| format!("{} {}", engine.name, engine.version);
            return Err(Incomparable { worker: name(one), checker: name(other) });
        }
        let fits = |pair: &&Pair| {
            (pair.one.has(worker) && pair.other.has(checker))
                || (pair.one.has(checker) && pair.other.has(worker))
        };
        Ok(self.pairs.iter().find(fits).map_or(&self.across, |pair| &pair.limits))
    }
}

impl Sampler {
    fn has(&self, engine: &Engine) -> bool {
        let begins = |first: &String| {
            let rest = engine.version.strip_prefix(first.as_str());
            rest.is_some_and(|rest| !rest.starts_with(|next: char| next.is_ascii_digit()))
        };
        self.engine == engine.name && self.versions.iter().any(begins)
    }
}

impl Classes {
    fn has(&self, class: &DeviceClass) -> bool {
        fn agrees<T: PartialEq>(wanted: Option<&T>, found: &T) -> bool {
            wanted.is_none_or(|wanted| wanted == found)
        }
        agrees(self.version.as_ref(), &class.engine.version)
            && agrees(self.build.as_ref(), &class.engine.build)
            && agrees(self.backend.as_ref(), &class.backend)
            && agrees(self.architecture.as_ref(), &class.architecture)
            && agrees(self.driver.as_ref(), &class.driver)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(version: &str, backend: &str) -> DeviceClass {
        DeviceClass {
            engine: Engine {
                name: "blender".to_owned(),
                version: version.to_owned(),
                build: "a".to_owned(),
            },
            backend: backend.to_owned(),
            architecture: "x".to_owned(),
            driver: 0,
        }
    }

    #[test]
    fn samplers_are_never_mixed() {
        let all = Thresholds::default();
        let limits = |a: &str, b: &str| all.limits(&class(a, "CPU"), &class(b, "CPU")).ok();
        assert_eq!(limits("4.5.15", "4.5.15"), Some(&Limits::WITHIN));
        for (a, b) in [("4.5.15", "5.0.1"), ("4.2.23", "4.5.15"), ("3.4.1", "3.6.0")] {
            assert_eq!(limits(a, b), Some(&Limits::ACROSS), "{a} {b}");
            assert_eq!(limits(b, a), limits(a, b));
        }
        for (a, b) in
            [("3.4.1", "4.5.15"), ("3.4.1", "5.0.1"), ("2.93.0", "2.90.0"), ("40.1", "4.1")]
        {
            assert_eq!(limits(a, b), None, "{a} {b}");
            assert_eq!(limits(b, a), None);
        }
        assert_eq!(limits("2.93.0", "2.93.0"), Some(&Limits::WITHIN));
        let mut other = class("4.5.15", "CPU");
        other.engine.name = "cinema".to_owned();
        let error = all.limits(&class("4.5.15", "CPU"), &other).unwrap_err().to_string();
        assert!(error.starts_with("blender 4.5.15 and cinema 4.5.15 are not known"), "{error}");
    }

    #[test]
    fn pairs_are_data() {
        let text = r#"{"pairs": [{"one": {"backend": "CPU"}, "other": {"backend": "OPTIX", "version": "4.5.15"},
            "limits": {"good": 0.2, "good_of_eight": 6, "median": 0.1, "bad": 0.5, "bad_unclipped": 0.5,
                       "bias": 6, "flat": 0.01, "calibrated": true}}]}"#;
        let all: Thresholds = serde_json::from_str(text).unwrap();
        let (cpu, optix) = (class("5.0.1", "CPU"), class("4.5.15", "OPTIX"));
        assert_eq!(all.limits(&cpu, &optix), Ok(&all.pairs[0].limits));
        assert_eq!(all.limits(&optix, &cpu), Ok(&all.pairs[0].limits));
        assert_eq!(all.limits(&cpu, &class("4.5.14", "OPTIX")), Ok(&Limits::ACROSS));
        let again: Thresholds =
            serde_json::from_str(&serde_json::to_string(&all).unwrap()).unwrap();
        assert_eq!(again, all);
        assert_eq!(serde_json::from_str::<Thresholds>("{}").unwrap(), Thresholds::default());
        assert!(serde_json::from_str::<Thresholds>(r#"{"pears": []}"#).is_err());
        assert_eq!((Thresholds::default().check(), all.check()), (Ok(()), Ok(())));
        let refused = |change: fn(&mut Thresholds)| {
            let mut wrong = all.clone();
            change(&mut wrong);
            wrong.check().unwrap_err().0
        };
        assert_eq!(refused(|all| all.within.bad = f64::NAN), "within");
        assert_eq!(refused(|all| all.across.good_of_eight = 9), "across");
        assert_eq!(refused(|all| all.across.good = 0.61), "across");
        assert_eq!(refused(|all| all.upscale.decibels = f64::INFINITY), "upscale");
        assert_eq!(refused(|all| all.pairs[0].limits.bias = -1.0), "pairs");
        assert!(!Limits::ACROSS.calibrated && !all.upscale.calibrated);
    }
}
