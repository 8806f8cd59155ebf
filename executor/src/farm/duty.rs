//! Decides whether this worker accepts work now, by its operator's wish, its working hours, and whether somebody uses
//! the machine.

use super::hours::Hours;
use super::idle::Idle;
use crate::worker::agent::Intake;
use jiff::Zoned;
use pictor_api::Service;
use tokio::time::{Duration, Instant};

/// Whether the worker accepts work, for its farm and for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) intake: Intake,
    /// Why it does not accept work; empty if it does.
    pub(crate) reason: String,
}

impl Standing {
    /// The worker accepts work.
    pub(crate) fn open() -> Self {
        Self { intake: Intake::Open, reason: String::new() }
    }

    /// The worker does not accept work.
    pub(crate) fn closed(intake: Intake, reason: impl Into<String>) -> Self {
        Self { intake, reason: reason.into() }
    }
}

/// The rules that decide whether the worker accepts work.
#[derive(Debug)]
pub(crate) struct Duty {
    hours: Option<Hours>,
    /// How long the machine must have been unused.
    idle_for: Option<Duration>,
    idle: Idle,
    /// The time within which running tasks may finish.
    drain: Duration,
    /// When it stopped accepting work by its own rules.
    closed: Option<Instant>,
}

impl Duty {
    pub(crate) fn new(hours: Option<Hours>, idle_for: Option<Duration>, drain: Duration) -> Self {
        Self { hours, idle_for, idle: Idle::new(), drain, closed: None }
    }

    /// Evaluates the rules now. `works`: the worker is running tasks.
    pub(crate) async fn look(&mut self, service: Service, works: bool) -> Standing {
        let idle = match self.idle_for {
            Some(_) => Some(self.idle.look(works).await),
            None => None,
        };
        let reason = self.reason(&Zoned::now(), idle);
        self.stand(service, reason, Instant::now())
    }

    /// Why it must not work at present; `None` if it may.
    fn reason(&self, now: &Zoned, idle: Option<Duration>) -> Option<String> {
        if let Some(hours) = self.hours.as_ref().filter(|hours| !hours.is_open(now.datetime())) {
            return Some(format!("outside of its working hours ({hours})"));
        }
        let wanted = self.idle_for?;
        let minutes = wanted.as_secs().div_ceil(60);
        idle.is_some_and(|idle| idle < wanted)
            .then(|| format!("somebody used the machine in the last {minutes} minutes"))
    }

    fn stand(&mut self, service: Service, reason: Option<String>, now: Instant) -> Standing {
        self.closed = reason.as_ref().map(|_| self.closed.unwrap_or(now));
        let out_of_service = "its operator has taken it out of service";
        let own = reason.zip(self.closed).map(|(reason, since)| {
            let over = now.duration_since(since) >= self.drain;
            Standing::closed(if over { Intake::HandBack } else { Intake::Finish }, reason)
        });
        match (service, own) {
            (Service::Disabled, _) => Standing::closed(Intake::HandBack, out_of_service),
            (_, Some(own)) => own,
            (Service::Draining, None) => Standing::closed(Intake::Finish, "its operator drains it"),
            (Service::Enabled, None) => Standing::open(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAIN: Duration = Duration::from_mins(10);

    #[test]
    fn the_operator_and_the_clock_both_have_to_agree() {
        let hours = "mon-fri 19:00-07:00".parse().unwrap();
        let mut duty = Duty::new(Some(hours), None, DRAIN);
        let at = |text: &str| format!("2026-03-02T{text}:00[UTC]").parse::<Zoned>().unwrap();
        let noon = duty.reason(&at("12:00"), None);
        assert_eq!(noon.as_deref(), Some("outside of its working hours (mon-fri 19:00-07:00)"));
        assert_eq!(duty.reason(&at("20:00"), None), None);
        let now = Instant::now();
        let mut intake = |service, reason: &Option<String>, later| {
            duty.stand(service, reason.clone(), now + Duration::from_secs(later)).intake
        };
        assert_eq!(intake(Service::Enabled, &None, 0), Intake::Open);
        assert_eq!(intake(Service::Draining, &None, 0), Intake::Finish);
        assert_eq!(intake(Service::Disabled, &None, 0), Intake::HandBack);
        // Running tasks may finish, but not for ever.
        assert_eq!(intake(Service::Enabled, &noon, 0), Intake::Finish);
        assert_eq!(intake(Service::Enabled, &noon, 599), Intake::Finish);
        assert_eq!(intake(Service::Enabled, &noon, 600), Intake::HandBack);
        assert_eq!(intake(Service::Enabled, &None, 601), Intake::Open);
        assert_eq!(intake(Service::Enabled, &noon, 602), Intake::Finish);
    }

    #[test]
    fn a_machine_in_use_takes_no_work_until_it_was_idle_for_long_enough() {
        let duty = Duty::new(None, Some(Duration::from_mins(10)), DRAIN);
        let reason = |idle| duty.reason(&Zoned::now(), Some(Duration::from_secs(idle)));
        let expected = "somebody used the machine in the last 10 minutes";
        assert_eq!(reason(599).as_deref(), Some(expected));
        assert_eq!(reason(600), None);
    }
}
