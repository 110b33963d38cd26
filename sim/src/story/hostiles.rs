//! Clients that mean harm: what they send is drawn from the seed, and nobody expects an answer.
//!
//! Owns: hostile connections. Promises: they stop when the calm act begins. Leaves out: judging; the honest clients'
//! histories and the broker's assertions tell whether harm was done.

use std::time::Duration;

use bytes::Bytes;
use dejaq::runtime::Runtime;
use dejaq::runtime::net::{FrameReader, FrameWriter, Net};

use super::{BROKER, Stage};
use crate::rng::Dice;
use crate::runtime::SimRuntime;

const FIRST_MACHINE: u32 = 400;

/// Starts the hostile clients.
pub fn start(stage: &Stage) {
    for number in 0..stage.plan.hostiles {
        let stage = stage.clone();
        stage.clone().broker.client(FIRST_MACHINE + number as u32, move |runtime| async move {
            let mut dice = stage.world.streams().dice("hostile", number as u64);
            while !stage.recorder.is_calm() {
                attack(&stage, &runtime, &mut dice).await;
                runtime.sleep(Duration::from_millis(dice.log_between(1, 100))).await;
            }
        });
    }
}

async fn attack(stage: &Stage, runtime: &SimRuntime, dice: &mut Dice) {
    let Ok((mut reader, mut writer)) = runtime.net().connect(&format!("n{BROKER}:9092")).await else {
        return;
    };
    stage.recorder.count("hostile connections");
    for _ in 0..dice.between(1, 30) {
        let frame = frame(dice);
        let deadline = runtime.now().plus(Duration::from_millis(200));
        let sent = runtime.before(deadline, writer.send(vec![vec![frame]])).await;
        if !matches!(sent, Some(Ok(()))) {
            return;
        }
        stage.recorder.count("hostile frames");
        if dice.chance(300) {
            let mut frames = Vec::new();
            let deadline = runtime.now().plus(Duration::from_millis(50));
            let answered = runtime.before(deadline, reader.recv(&mut frames, 8, 1 << 20)).await;
            if matches!(answered, Some(Err(_))) {
                stage.recorder.count("hostile connections cut off");
                return;
            }
        }
    }
}

/// Noise; or a header that looks right with a body that is noise, is cut, or claims absurd lengths.
fn frame(dice: &mut Dice) -> Bytes {
    let length = dice.log_between(1, 4096) as usize;
    if dice.chance(300) {
        return dice.bytes(length).into();
    }
    let key = dice.below(93) as i16;
    let version = if dice.chance(900) { dice.below(14) as i16 } else { dice.any() as i16 };
    let mut bytes = Vec::with_capacity(length + 16);
    bytes.extend_from_slice(&key.to_be_bytes());
    bytes.extend_from_slice(&version.to_be_bytes());
    bytes.extend_from_slice(&(dice.any() as i32).to_be_bytes());
    match dice.below(3) {
        0 => bytes.extend_from_slice(&(-1_i16).to_be_bytes()),
        1 => bytes.extend_from_slice(&[0, 3, b'b', b'a', b'd']),
        _ => bytes.extend_from_slice(&(dice.any() as i16).to_be_bytes()),
    }
    for _ in 0..dice.below(6) {
        match dice.below(4) {
            0 => bytes.extend_from_slice(&i32::MAX.to_be_bytes()),
            1 => bytes.extend_from_slice(&[0xff, 0xff, 0xff, 0xff, 0x0f]),
            2 => bytes.extend_from_slice(&(dice.below(8) as i32).to_be_bytes()),
            _ => bytes.push(dice.any() as u8),
        }
    }
    let noise = dice.below(length as u64) as usize;
    bytes.extend(dice.bytes(noise));
    bytes.into()
}
