//! Act one breaks things, act two heals them and asks for a cluster that works.

use std::time::Duration;

use dejaq::controller::raft::{Change, VoterSet};
use dejaq_wire::ids::BrokerId;
use dejaq_wire::peer::raft::{Content, Voter};

use super::disk::Disk;
use super::god::Verdict;
use super::world::{Event, MS, World};

const CHAOS_MS: u64 = 8_000;
/// The calm act must be over by then; 40 election timeouts.
const CALM_MS: u64 = 6_000;

/// Faults under load.
pub fn chaos(world: &mut World) -> Verdict {
    let end = world.now.plus(Duration::from_millis(CHAOS_MS));
    let mut next_fault = world.now.plus(Duration::from_millis(500));
    let pace = world.rng.pick(&[100, 300, 900]);
    let load = world.rng.pick(&[5, 20, 80]);
    while world.now < end {
        let wait = world.rng.within(MS, load * MS);
        let until = world.now.plus(Duration::from_nanos(wait));
        world.run_until(until)?;
        client(world);
        if world.now >= next_fault {
            fault(world);
            let wait = world.rng.within(10, pace * 2);
            next_fault = world.now.plus(Duration::from_millis(wait));
        }
    }
    Ok(())
}

/// Everything works again: within the bound, a new proposal is applied on every node.
pub fn calm(world: &mut World) -> Verdict {
    world.calm = true;
    world.cuts.clear();
    world.loss = 0;
    let now = world.now;
    for at in 0..world.nodes.len() {
        let node = &mut world.nodes[at];
        node.paused_until = node.paused_until.min(now);
        (node.slow_until, node.full) = (now, false);
        world.after(1, at, None, Event::Start);
    }
    let end = now.plus(Duration::from_millis(CALM_MS));
    let before = world.stats.acked;
    let mut goal = None;
    while world.now < end {
        let until = world.now.plus(Duration::from_millis(20));
        world.run_until(until)?;
        if goal.is_none() {
            if world.stats.acked > before && world.leaders().len() == 1 {
                goal = Some(world.god.committed_end);
            } else if let [leader] = world.leaders()[..] {
                world.after(1, leader, None, Event::Propose);
            }
        }
        if let Some(goal) = goal
            && (0..world.nodes.len()).all(|at| world.applied(at) >= goal)
        {
            world.stats.healed_ms = world.now.since(now).as_millis() as u64;
            world.stats.elections = world.god.elections;
            for node in &world.nodes {
                node.process.as_ref().expect("all run").raft.check_deep();
            }
            return world.god.finish();
        }
    }
    let applied: Vec<_> = (0..world.nodes.len()).map(|at| world.applied(at)).collect();
    let views: Vec<_> = world
        .nodes
        .iter()
        .map(|n| {
            n.process
                .as_ref()
                .map(|p| (n.key(), p.raft.view(), p.raft.entries().end(), p.raft.entries().voters().clone()))
        })
        .collect();
    Err(format!("LIVENESS: after {CALM_MS} ms of calm: goal {goal:?}, applied {applied:?}, {views:#?}"))
}

fn client(world: &mut World) {
    let leaders = world.leaders();
    let any = world.rng.below(world.nodes.len() as u64) as usize;
    let at = if leaders.is_empty() || world.rng.percent(20) { any } else { world.rng.pick(&leaders) };
    let event = match world.rng.below(20) {
        0..12 => Event::Propose,
        12..19 => Event::Read,
        _ => match change(world) {
            Some(change) => Event::Change(change),
            None => Event::Read,
        },
    };
    let wait = world.rng.below(MS);
    world.after(wait, at, None, event);
}

/// The voters that the committed log says, or that were configured.
fn committed_voters(world: &World) -> Option<VoterSet> {
    let said = world.god.committed.values().rev().find_map(|entry| match &entry.batch.content {
        Content::Voters(voters) => Some(voters.clone()),
        Content::LeaderChange | Content::Records(_) => None,
    });
    VoterSet::new(said?).ok()
}

fn change(world: &mut World) -> Option<Change> {
    if world.now < world.last_wipe.plus(Duration::from_secs(1)) {
        return None; // the operator looks first
    }
    let voters = committed_voters(world)?;
    let is_gone = |voter: &&Voter| world.gone.contains_key(&voter.key);
    if let Some(gone) = voters.as_slice().iter().find(is_gone)
        && voters.count() > 1
        && world.rng.percent(70)
    {
        return Some(Change::Remove(gone.key));
    }
    let outside: Vec<usize> =
        (0..world.nodes.len()).filter(|at| voters.on(world.nodes[*at].id).is_none()).collect();
    if !outside.is_empty() && world.rng.percent(if voters.count() < 5 { 60 } else { 20 }) {
        let at = world.rng.pick(&outside);
        return Some(Change::Add(Voter { key: world.nodes[at].key(), address: String::new() }));
    }
    let keys: Vec<_> = voters.as_slice().iter().map(|voter| voter.key).collect();
    Some(Change::Remove(world.rng.pick(&keys)))
}

fn fault(world: &mut World) {
    let any = world.rng.below(world.nodes.len() as u64) as usize;
    let leaders = world.leaders();
    let victim = if leaders.is_empty() || world.rng.percent(60) { any } else { world.rng.pick(&leaders) };
    let long = world.rng.within(20, 2500);
    let until = world.now.plus(Duration::from_millis(long));
    match world.rng.below(15) {
        0 | 1 => crash(world, victim, false),
        2 | 3 => crash(world, victim, true),
        4 => {
            let powerless = world.rng.percent(70);
            (0..world.nodes.len()).for_each(|at| crash(world, at, powerless));
        }
        5 | 6 => world.nodes[victim].paused_until = until,
        7 => split(world),
        8 => {
            let other = world.rng.below(world.nodes.len() as u64) as usize;
            let (from, to) = (world.nodes[victim].id, world.nodes[other].id);
            world.cuts.insert((from, to));
        }
        9 => {
            // Deaf, or mute.
            let (this, deaf) = (world.nodes[victim].id, world.rng.percent(50));
            let others: Vec<BrokerId> =
                world.nodes.iter().map(|node| node.id).filter(|id| *id != this).collect();
            world.cuts.extend(others.into_iter().map(|id| if deaf { (id, this) } else { (this, id) }));
        }
        10 | 11 => world.cuts.clear(),
        12 => world.nodes[victim].slow_until = until,
        13 => match world.rng.below(5) {
            0 => world.nodes[victim].full = true,
            1 => world.loss = world.rng.pick(&[0, 5, 30]),
            2 => {
                // Somebody believes that a process is gone, rightly or not.
                let gone = world.nodes[victim].id;
                world.after(1, any, None, Event::Gone(gone));
            }
            _ => world.after(1, victim, None, Event::Resign),
        },
        _ => wipe(world, any),
    }
    // What stopped by itself is started again by whoever watches it.
    for at in 0..world.nodes.len() {
        if world.nodes[at].process.is_none() {
            let wait = world.rng.below(1500 * MS);
            world.after(wait, at, None, Event::Start);
        }
    }
}

fn crash(world: &mut World, at: usize, powerless: bool) {
    world.stop(at);
    if powerless {
        let mut rng = world.rng.clone();
        world.nodes[at].disk.power_cut(&mut rng);
        world.rng = rng;
    }
}

fn split(world: &mut World) {
    world.cuts.clear();
    let side: Vec<bool> = world.nodes.iter().map(|_| world.rng.percent(50)).collect();
    for (a, left) in side.iter().enumerate() {
        for (b, right) in side.iter().enumerate() {
            if left != right {
                world.cuts.insert((world.nodes[a].id, world.nodes[b].id));
            }
        }
    }
}

/// A disk is lost for good, if a majority of every set of voters that any log knows keeps theirs.
fn wipe(world: &mut World, at: usize) {
    if world.now < world.last_change.plus(Duration::from_secs(1)) {
        return;
    }
    let key = world.nodes[at].key();
    let mut sets: Vec<VoterSet> = committed_voters(world).into_iter().collect();
    for node in &mut world.nodes {
        match &node.process {
            Some(process) => sets.push(process.raft.entries().voters().clone()),
            None => {
                let found = node.disk.restore();
                let in_log = found.batches.into_iter().filter_map(|batch| match batch.content {
                    Content::Voters(voters) => VoterSet::new(voters).ok(),
                    Content::LeaderChange | Content::Records(_) => None,
                });
                sets.extend(in_log);
                sets.extend(
                    found.snapshot.and_then(|snapshot| VoterSet::new(snapshot.id.voters.clone()).ok()),
                );
            }
        }
    }
    let gone = &world.gone;
    let survives = |set: &VoterSet| {
        let left =
            set.as_slice().iter().filter(|voter| voter.key.id != key.id && !gone.contains_key(&voter.key));
        !set.has(key) || left.count() * 2 > set.count()
    };
    if sets.is_empty() || !sets.iter().all(survives) {
        return;
    }
    world.stop(at);
    let directory = world.new_directory();
    let old = std::mem::replace(&mut world.nodes[at].disk, Disk::empty(directory));
    world.gone.insert(key, old);
    (world.last_wipe, world.stats.wipes) = (world.now, world.stats.wipes + 1);
}
