//! The health of the machine's cards, as metrics (feature `nvml`).
//!
//! It owns a thread, one for the process however many workers there are, which looks every 10 s and does nothing else:
//! neither stages nor the control loop delay it, and a driver that hangs delays none of them. Where there is no driver it
//! says so once and ends. It judges nothing; that is for [`Fitness`](super::Fitness) and for whoever reads the metrics.

use std::sync::Once;
use std::time::Duration;

use tracing::{info, warn};

use super::card::Seen;
use super::nvml::{self, Nvidia};
use crate::error::Result;
use crate::telemetry::CardMeter;

/// Between two looks. The driver's own samples are at most a second old.
const EVERY: Duration = Duration::from_secs(10);

/// Shows the cards in metrics from now until the process ends.
pub(crate) fn watch_cards() {
    // A second thread would count the same errors again.
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        let started = std::thread::Builder::new().name("forebay-cards".to_owned()).spawn(watch);
        if let Err(why) = started {
            warn!(error = %why, "no thread for the metrics of cards: there will be none");
        }
    });
}

fn watch() {
    let nvml = match nvml::open() {
        Ok(nvml) => nvml,
        Err(why) => return info!(reason = %why, "no metrics of cards"),
    };
    let (mut nvidia, mut shown) = (Nvidia::new(nvml).with_xids(), Shown::default());
    // It is never closed: that would be while the process ends, beside the library's own end. The loop ends with the
    // process too: nobody waits for this thread.
    loop {
        shown.show(nvidia.look());
        std::thread::sleep(EVERY);
    }
}

/// Which cards could be read the last time, so that a change is said once.
#[derive(Default)]
struct Shown(Vec<bool>);

impl Shown {
    fn show(&mut self, seen: Result<Seen>) {
        let seen = match seen {
            Ok(seen) => seen,
            Err(why) => return (0..self.0.len()).for_each(|number| self.is(number, false, &why)),
        };
        for (number, xid) in seen.xids {
            let xid = xid.map_or("unknown".to_owned(), |xid| xid.to_string());
            warn!(card = number, xid, "the driver reports an error of a card");
            CardMeter::new(number).failed(xid);
        }
        for (number, card) in seen.cards.iter().enumerate() {
            match card {
                Ok(card) => {
                    CardMeter::new(number).show(card);
                    self.is(number, true, &"");
                }
                Err(why) => self.is(number, false, why),
            }
        }
        // A card that is gone altogether.
        (seen.cards.len()..self.0.len()).for_each(|number| self.is(number, false, &"the driver shows it no more"));
    }

    fn is(&mut self, number: usize, up: bool, why: &dyn std::fmt::Display) {
        if self.0.len() <= number {
            // Until it is known, a card is thought to be well.
            self.0.resize(number + 1, true);
        }
        let was = std::mem::replace(&mut self.0[number], up);
        match (was, up) {
            (true, false) => warn!(card = number, error = %why, "a card cannot be read; its metrics are old"),
            (false, true) => info!(card = number, "a card can be read again"),
            _ => {}
        }
        CardMeter::new(number).up(up);
    }
}

#[cfg(all(test, feature = "telemetry"))]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::node::card::Card;
    use crate::telemetry::{self, Snapshot, Telemetry};

    fn card() -> Card {
        Card {
            capability: Some((9, 0)),
            memory_free: Some(5),
            memory_used: Some(3000),
            memory_total: Some(8000),
            temperature: Some(61),
            power: Some(312_500),
            power_limit: Some(700_000),
            sm_clock: Some(1980),
            memory_clock: Some(3201),
            utilization: Some(97),
            memory_utilization: Some(40),
            throttled: Some(vec![("sw_power_cap", true), ("hw_thermal", false)]),
            ecc_corrected: Some(7),
            ecc_uncorrected: Some(0),
        }
    }

    fn seen(cards: Vec<Result<Card>>) -> Result<Seen> {
        Ok(Seen { driver: "580.65.06".to_owned(), cards, xids: Vec::new() })
    }

    /// What is in the metrics after these looks.
    fn shown(looks: Vec<Result<Seen>>) -> Snapshot {
        let (recorder, mut shown) = (Telemetry::new(), Shown::default());
        metrics::with_local_recorder(&recorder, || looks.into_iter().for_each(|look| shown.show(look)));
        recorder.snapshot()
    }

    #[test]
    fn every_figure_of_a_card_is_a_metric_in_its_unit() {
        let text = shown(vec![seen(vec![Ok(card())])]).prometheus();
        let mut lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        lines.sort_unstable();
        let expected = [
            r#"forebay_card_ecc_errors_total{card="0",kind="corrected"} 7"#,
            r#"forebay_card_ecc_errors_total{card="0",kind="uncorrected"} 0"#,
            r#"forebay_card_memory_clock_hertz{card="0"} 3201000000"#,
            r#"forebay_card_memory_total_bytes{card="0"} 8000"#,
            r#"forebay_card_memory_used_bytes{card="0"} 3000"#,
            r#"forebay_card_memory_utilization{card="0"} 0.4"#,
            r#"forebay_card_power_limit_watts{card="0"} 700"#,
            r#"forebay_card_power_watts{card="0"} 312.5"#,
            r#"forebay_card_sm_clock_hertz{card="0"} 1980000000"#,
            r#"forebay_card_temperature_celsius{card="0"} 61"#,
            r#"forebay_card_throttled{card="0",reason="hw_thermal"} 0"#,
            r#"forebay_card_throttled{card="0",reason="sw_power_cap"} 1"#,
            r#"forebay_card_up{card="0"} 1"#,
            r#"forebay_card_utilization{card="0"} 0.97"#,
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn what_a_card_does_not_tell_is_no_metric() {
        let text = shown(vec![seen(vec![Ok(Card { power: Some(1000), ..Card::default() })])]).prometheus();
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(lines, [r#"forebay_card_power_watts{card="0"} 1"#, r#"forebay_card_up{card="0"} 1"#]);
        assert_eq!(shown(vec![Err(Error::fatal("no driver"))]).prometheus(), "");
    }

    #[test]
    fn a_card_that_is_lost_is_not_up_and_keeps_its_last_figures() {
        let up = |snapshot: &Snapshot, card| snapshot.gauge(telemetry::CARD_UP, &[("card", card)]);
        let lost = || Err(Error::fatal("it fell off the bus"));
        let both = || seen(vec![Ok(card()), Ok(card())]);
        let one_lost = shown(vec![both(), seen(vec![Ok(card()), lost()])]);
        assert_eq!((up(&one_lost, "0"), up(&one_lost, "1")), (1.0, 0.0));
        assert_eq!(one_lost.gauge(telemetry::CARD_TEMPERATURE, &[("card", "1")]), 61.0);
        let one_gone = shown(vec![both(), seen(vec![Ok(card())])]);
        assert_eq!((up(&one_gone, "0"), up(&one_gone, "1")), (1.0, 0.0));
        let all_lost = shown(vec![both(), Err(Error::fatal("no driver"))]);
        assert_eq!((up(&all_lost, "0"), up(&all_lost, "1")), (0.0, 0.0));
        let back = shown(vec![seen(vec![lost()]), seen(vec![Ok(card())])]);
        assert_eq!(up(&back, "0"), 1.0);
    }

    #[test]
    fn errors_that_the_driver_reports_are_counted_by_their_number() {
        let look = |xids| seen(vec![Ok(card()), Ok(card())]).map(|seen| Seen { xids, ..seen });
        let counted = shown(vec![look(vec![(0, Some(79)), (1, Some(48)), (1, None)]), look(vec![(1, Some(48))])]);
        let count = |card, xid| counted.counter(telemetry::CARD_XID_ERRORS, &[("card", card), ("xid", xid)]);
        assert_eq!((count("0", "79"), count("1", "48"), count("1", "unknown"), count("0", "48")), (1, 2, 1, 0));
    }
}
