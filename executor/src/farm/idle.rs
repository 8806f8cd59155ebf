//! Detects whether somebody uses this machine: by keyboard and mouse (counted by the kernel), terminals (the time of
//! the last input), and the desktop (logind). What is typed is never read.

use crate::programs::Confinement;
use crate::programs::process::output;
use std::path::Path;
use std::time::SystemTime;
use tokio::process::Command;
use tokio::time::{Duration, Instant};

/// The load of other programs from which a machine counts as busy, as a percentage of all processors.
const LOAD_PERCENT_MAX: u64 = 50;
/// The time limit for logind, which usually responds at once.
const ANSWER: Duration = Duration::from_secs(5);

/// Measures for how long nobody has used this machine.
#[derive(Debug)]
pub(crate) struct Idle {
    last_use: Instant,
    /// The kernel's counts for keyboards and mice at the previous check.
    counted: Option<u64>,
}

impl Idle {
    /// Assumes until further notice that the machine was used just now.
    pub(crate) fn new() -> Self {
        Self { last_use: Instant::now(), counted: None }
    }

    /// Checks the machine and returns how long ago somebody used it. `works`: the worker is running tasks, so the load
    /// says nothing.
    pub(crate) async fn look(&mut self, works: bool) -> Duration {
        let ago = tokio::task::spawn_blocking(|| {
            let interrupts = std::fs::read_to_string("/proc/interrupts").unwrap_or_default();
            let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
            let counted =
                input_interrupts(&interrupts) + usb_input(Path::new("/sys/bus/usb/devices"));
            (counted, is_loaded(&load), typed_ago())
        });
        let (counted, loaded, typed) = ago.await.unwrap_or_default();
        let touched = self.counted.replace(counted).is_some_and(|before| before != counted);
        if touched || (loaded && !works) || desktop_is_used().await {
            self.last_use = Instant::now();
        } else if let Some(since) = typed.and_then(|ago| Instant::now().checked_sub(ago)) {
            self.last_use = self.last_use.max(since);
        }
        self.last_use.elapsed()
    }
}

/// The number of interrupts by built-in keyboards, touchpads and mice.
fn input_interrupts(interrupts: &str) -> u64 {
    let input = |line: &&str| {
        line.ends_with("i8042") || line.contains("i2c_hid") || line.contains("hid-over-i2c")
    };
    let counts = |line: &str| -> u64 {
        let counts = line.split_whitespace().skip(1).map_while(|word| word.parse::<u64>().ok());
        counts.sum()
    };
    interrupts.lines().filter(input).map(counts).sum()
}

/// The number of USB transfers by keyboards and mice.
fn usb_input(devices: &Path) -> u64 {
    let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    let entries = std::fs::read_dir(devices).into_iter().flatten().flatten();
    let mut sum = 0;
    for entry in entries {
        // `1-2:1.0` is an interface of the device `1-2`; class 3 is that of human interface devices.
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some((device, _)) = name.split_once(':') else { continue };
        if read(&entry.path().join("bInterfaceClass")).trim() == "03" {
            let count = read(&devices.join(device).join("urbnum"));
            sum += count.trim().parse::<u64>().unwrap_or(0);
        }
    }
    sum
}

/// Whether the load is higher than that of a desktop at rest.
fn is_loaded(loadavg: &str) -> bool {
    let load: Option<f64> = loadavg.split(' ').next().and_then(|load| load.parse().ok());
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a load is small")]
    let percent = load.map_or(0, |load| (load.clamp(0.0, 1e6) * 100.0) as u64);
    percent > LOAD_PERCENT_MAX * processors as u64
}

/// How long ago somebody last typed into a terminal, by its access time.
#[expect(clippy::disallowed_methods, reason = "files carry wall clock times")]
fn typed_ago() -> Option<Duration> {
    let terminals = |folder: &str, is_one: fn(&str) -> bool| {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let entries = entries.filter(move |entry| is_one(&entry.file_name().to_string_lossy()));
        entries.filter_map(|entry| entry.metadata().ok()?.accessed().ok()).max()
    };
    let number = |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit());
    let console = |name: &str| name.strip_prefix("tty").is_some_and(|n| n.parse::<u8>().is_ok());
    let last = terminals("/dev/pts", number).max(terminals("/dev", console))?;
    // A time in the future counts as just now.
    Some(SystemTime::now().duration_since(last).unwrap_or_default())
}

/// Whether logind has a session at this machine's own display that is in use.
async fn desktop_is_used() -> bool {
    let mut list = Command::new("loginctl");
    list.args(["list-sessions", "--no-legend", "--no-pager"]);
    let Ok(sessions) = output(&list, &Confinement::trusted(), ANSWER).await else {
        return false;
    };
    for session in sessions.lines().filter_map(|line| line.split_whitespace().next()) {
        let mut show = Command::new("loginctl");
        show.args(["show-session", session, "--no-pager"]);
        show.args(["-p", "Type,Class,Active,LockedHint,IdleHint,IdleSinceHint"]);
        if output(&show, &Confinement::trusted(), ANSWER).await.is_ok_and(|text| is_used(&text)) {
            return true;
        }
    }
    false
}

/// Whether a session's properties are those of a desktop in use. Terminals are checked without logind, and a desktop
/// that never reports to logind is not in use just because no idleness is reported.
fn is_used(properties: &str) -> bool {
    let has = |line: &str| properties.lines().any(|there| there.trim() == line);
    let desktop = has("Type=x11") || has("Type=wayland") || has("Type=mir");
    let tells = properties.contains("IdleSinceHint=") && !has("IdleSinceHint=0");
    desktop
        && tells
        && has("Class=user")
        && has("Active=yes")
        && has("IdleHint=no")
        && !has("LockedHint=yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_hands_move_counts_as_input() {
        let text = "           CPU0       CPU1
   1:      10        5   IO-APIC    1-edge      i8042
   8:       0        1   IO-APIC    8-edge      rtc0
  12:     100      200   IO-APIC   12-edge      i8042
  45:       7        0   IO-APIC   45-fasteoi   i2c_hid_acpi
 130:    9000     8000   PCI-MSI 327680-edge      xhci_hcd
";
        assert_eq!(input_interrupts(text), 322);
        let folder = tempfile::tempdir().unwrap();
        for (device, class, count) in [("1-1", "03", "70"), ("1-2", "08", "9999")] {
            let interface = folder.path().join(format!("{device}:1.0"));
            std::fs::create_dir_all(folder.path().join(device)).unwrap();
            std::fs::create_dir_all(&interface).unwrap();
            std::fs::write(interface.join("bInterfaceClass"), format!("{class}\n")).unwrap();
            std::fs::write(folder.path().join(device).join("urbnum"), format!("{count}\n"))
                .unwrap();
        }
        assert_eq!(usb_input(folder.path()), 70);
        assert_eq!(usb_input(Path::new("/nowhere")), 0);
    }

    #[test]
    fn a_desktop_is_used_unless_it_is_idle_locked_or_in_the_background() {
        let used =
            "Type=wayland\nClass=user\nActive=yes\nIdleHint=no\nLockedHint=no\nIdleSinceHint=17\n";
        assert!(is_used(used));
        for (from, to) in [
            ("IdleHint=no", "IdleHint=yes"),
            ("LockedHint=no", "LockedHint=yes"),
            ("Active=yes", "Active=no"),
            ("Class=user", "Class=greeter"),
            ("Type=wayland", "Type=tty"),
            ("IdleSinceHint=17", "IdleSinceHint=0"),
        ] {
            assert!(!is_used(&used.replace(from, to)), "{to}");
        }
    }

    #[test]
    fn a_machine_with_much_to_do_is_loaded() {
        assert!(!is_loaded("0.10 0.20 0.30 1/200 3"));
        assert!(is_loaded("99999.00 0.20 0.30 1/200 3"));
        assert!(!is_loaded(""));
    }

    #[tokio::test]
    async fn somebody_was_here_until_the_opposite_is_known() {
        let mut idle = Idle::new();
        assert!(idle.look(true).await < Duration::from_mins(1));
    }
}
