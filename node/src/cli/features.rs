//! `dejaq cluster features`, `upgrade` and `downgrade`: what each broker supports, and the level of the cluster.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Args as ClapArgs;
use dejaq_wire::ids::BrokerId;
use serde_json::{Value, json};

use super::client::{Client, ClientArgs, explain, explain_admin};
use super::output::Table;
use crate::client::admin_features::{FeatureWay, Features};
use crate::metadata::level::DEJAQ_VERSION;

/// The help of `dejaq cluster upgrade`.
pub(super) const UPGRADE_HELP: &str = "\
A release brings forms (configs, records, messages between brokers) that the release before does not know. They are used only
once the cluster's level, dejaq.version, is raised. Until then brokers of both releases live together, and any of them can go back.

A rolling upgrade, without stopping the clients:
  1. For each broker, one at a time: stop it (SIGTERM: it gives its leaderships away first), start the new release on its data
     directory, wait until `dejaq cluster status` ends with status 0: every replica is in sync again.
  2. `dejaq cluster features` shows that every broker supports the new level. Let the cluster run like this as long as you like.
  3. `dejaq cluster upgrade` raises the level. From now on a broker of the old release is refused.

Back again: `dejaq cluster downgrade`, then the old release on each broker, one at a time, as above.

Without --level it goes as high as every broker supports. A level that a broker does not support, or has not told yet, is refused.

Examples:
  dejaq cluster upgrade --dry-run
  dejaq cluster upgrade
  dejaq cluster upgrade --level 2 --json";

/// The help of `dejaq cluster downgrade`.
pub(super) const DOWNGRADE_HELP: &str = "\
Refused while something needs the higher level; the message names it. Nothing is thrown away to make it possible.

Every broker then writes a snapshot of the metadata that the older release can read. A start of the older release that comes before
it is refused and changes nothing: start the newer one again, let it run for a moment, and try once more.

Without --level it goes one level down.

Examples:
  dejaq cluster downgrade --dry-run
  dejaq cluster downgrade --level 1";

/// Arguments of `dejaq cluster features`.
#[derive(Debug, ClapArgs)]
pub(super) struct Show {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientArgs,
}

/// Arguments of `dejaq cluster upgrade` and `downgrade`.
#[derive(Debug, ClapArgs)]
pub(super) struct Change {
    /// The level that dejaq.version is to have.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i16).range(1..))]
    level: Option<i16>,
    /// Only say whether it would be done.
    #[arg(long)]
    dry_run: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientArgs,
}

/// What is known of the features of a whole cluster.
#[derive(Debug, Default)]
struct Known {
    /// Of each registered broker; `None` if it did not answer.
    brokers: BTreeMap<BrokerId, Option<Features>>,
}

impl Known {
    /// Where the cluster stands, by the broker that has followed furthest.
    fn newest(&self) -> Option<&Features> {
        self.brokers.values().flatten().max_by_key(|features| features.epoch)
    }

    fn level(&self) -> i16 {
        self.newest().and_then(|newest| newest.finalized.get(DEJAQ_VERSION)).copied().unwrap_or(1)
    }

    fn range(features: &Features) -> (i16, i16) {
        features.supported.get(DEJAQ_VERSION).copied().unwrap_or((1, 1))
    }

    /// The highest level that every broker supports; `None` while one does not answer.
    fn highest(&self) -> Option<i16> {
        let max = |features: &Option<Features>| features.as_ref().map(|one| Known::range(one).1);
        self.brokers.values().map(max).collect::<Option<Vec<i16>>>()?.into_iter().min()
    }

    fn table(&self) -> String {
        let mut table = Table::new(&["BROKER", "SUPPORTS"]);
        for (broker, features) in &self.brokers {
            let range = features.as_ref().map(Known::range);
            let range = range.map_or("no answer".into(), |(min, max)| format!("{min} to {max}"));
            table.row(vec![broker.to_string(), range]);
        }
        table.render()
    }

    /// What a person might do next.
    fn advice(&self) -> String {
        match self.highest() {
            None => "A broker does not answer: the level can be raised when all of them do.".into(),
            Some(highest) if highest > self.level() => {
                format!("Every broker supports {highest}: `dejaq cluster upgrade` raises it.")
            }
            Some(_) => "That is as high as every broker supports.".into(),
        }
    }

    fn json(&self) -> Value {
        let range = |(min, max): &(i16, i16)| json!({ "min": min, "max": max });
        let supported = |features: &Features| -> Value {
            features.supported.iter().map(|(name, levels)| (name.clone(), range(levels))).collect()
        };
        let broker = |(id, features): (&BrokerId, &Option<Features>)| json!({ "broker": id.0, "supported": features.as_ref().map(supported) });
        json!({
            "feature": DEJAQ_VERSION,
            "level": self.level(),
            "highest": self.highest(),
            "finalized": self.newest().map(|newest| &newest.finalized),
            "metadata_offset": self.newest().map(|newest| newest.epoch),
            "brokers": self.brokers.iter().map(broker).collect::<Vec<_>>(),
        })
    }
}

async fn look(client: &Client) -> anyhow::Result<Known> {
    let (admin, deadline) = (client.admin(), client.deadline());
    let (_, _, brokers) = admin.brokers(deadline).await.map_err(explain_admin)?;
    let mut known = Known::default();
    for broker in brokers {
        let told = match broker.fenced {
            true => None, // nobody hears it, and a client that tries waits for nothing
            false => admin.features(broker.id, deadline).await.ok(),
        };
        known.brokers.insert(broker.id, told);
    }
    Ok(known)
}

/// Shows the features.
pub(super) fn show(args: &Show) -> anyhow::Result<ExitCode> {
    let client = args.client.client(false)?;
    let known = client.executor.block_on(look(&client))?;
    if args.json {
        println!("{}", known.json());
    } else {
        println!("{DEJAQ_VERSION} {}\n", known.level());
        print!("{}", known.table());
        println!("\n{}", known.advice());
    }
    Ok(ExitCode::SUCCESS)
}

/// Raises the level.
pub(super) fn upgrade(args: &Change) -> anyhow::Result<ExitCode> {
    let client = args.client.client(false)?;
    client.executor.block_on(async {
        let known = look(&client).await?;
        let level = match (args.level, known.highest()) {
            (Some(level), _) => level,
            (None, Some(highest)) => highest,
            (None, None) => {
                let silent =
                    known.brokers.iter().filter(|(_, one)| one.is_none()).map(|(id, _)| id.to_string());
                let silent: Vec<String> = silent.collect();
                return Err(explain(
                    format!("broker(s) {} do not say what they support", silent.join(", ")),
                    "start them, or forget those that will not come back: dejaq broker unregister",
                ));
            }
        };
        change(&client, args, known.level(), (level, FeatureWay::Upgrade)).await
    })
}

/// Lowers it.
pub(super) fn downgrade(args: &Change) -> anyhow::Result<ExitCode> {
    let client = args.client.client(false)?;
    client.executor.block_on(async {
        let now = look(&client).await?.level();
        let level = args.level.unwrap_or_else(|| (now - 1).max(1));
        change(&client, args, now, (level, FeatureWay::SafeDowngrade)).await
    })
}

async fn change(
    client: &Client,
    args: &Change,
    now: i16,
    (level, way): (i16, FeatureWay),
) -> anyhow::Result<ExitCode> {
    let (admin, deadline) = (client.admin(), client.deadline());
    let asked = admin.update_feature((DEJAQ_VERSION, level), way, args.dry_run, deadline);
    asked.await.map_err(explain_admin)?;
    if args.json {
        println!(
            "{}",
            json!({ "feature": DEJAQ_VERSION, "was": now, "level": level, "dry_run": args.dry_run })
        );
    } else {
        println!("{}", said(now, level, args.dry_run));
    }
    Ok(ExitCode::SUCCESS)
}

fn said(now: i16, level: i16, dry_run: bool) -> String {
    match (now == level, dry_run) {
        (true, _) => format!("{DEJAQ_VERSION} is {level} already, nothing to do"),
        (false, true) => format!("{DEJAQ_VERSION} would go from {now} to {level}; nothing was changed"),
        (false, false) => format!("{DEJAQ_VERSION} goes from {now} to {level}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broker(range: (i16, i16), level: i16, epoch: i64) -> Option<Features> {
        Some(Features {
            supported: BTreeMap::from([(DEJAQ_VERSION.to_owned(), range)]),
            finalized: BTreeMap::from([(DEJAQ_VERSION.to_owned(), level)]),
            epoch,
        })
    }

    fn known(brokers: Vec<Option<Features>>) -> Known {
        Known { brokers: (1..).map(BrokerId).zip(brokers).collect() }
    }

    #[test]
    fn the_newest_word_counts_and_the_oldest_broker_bounds_the_level() {
        let mixed = known(vec![broker((1, 2), 1, 9), broker((1, 1), 1, 8)]);
        assert_eq!((mixed.level(), mixed.highest()), (1, Some(1)));
        assert!(mixed.advice().contains("as high as"));
        let ready = known(vec![broker((1, 2), 1, 9), broker((1, 3), 2, 10)]);
        assert_eq!((ready.level(), ready.highest()), (2, Some(2)));
        let silent = known(vec![broker((1, 2), 1, 9), None]);
        assert_eq!((silent.highest(), known(Vec::new()).level()), (None, 1));
        let first = known(vec![Some(Features::default())]);
        assert_eq!((first.level(), first.highest()), (1, Some(1)), "the first release says nothing");
        insta::assert_snapshot!(silent.table(), @r"
        BROKER  SUPPORTS
             1  1 to 2
             2  no answer
        ");
        assert_eq!(silent.json()["brokers"][1]["supported"], Value::Null);
        assert_eq!(ready.json()["brokers"][1]["supported"][DEJAQ_VERSION], json!({ "min": 1, "max": 3 }));
    }

    #[test]
    fn what_was_done_and_what_would_be_are_told_apart() {
        assert_eq!(said(1, 2, false), "dejaq.version goes from 1 to 2");
        assert!(said(1, 2, true).contains("nothing was changed"));
        assert!(said(2, 2, false).contains("already"));
    }
}
