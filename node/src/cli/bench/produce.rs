//! The producing load: closed loop (a window of requests a connection) or open loop (a fixed rate).

use std::collections::VecDeque;
use std::io::{self, IoSlice, Write};
use std::net::TcpStream;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use anyhow::Context;

use super::link::{Link, find_topic};
use super::load::{Shape, Template, error_code_at};
use super::report::{Sample, Summary};

/// Different batches that each partition is sent in turn.
const TEMPLATES: u64 = 4;
/// Requests in one vectored write.
const MAX_VECTORS: usize = 64;
/// Produce 7 is served by every broker since Kafka 2.1 and has the old, fixed layout.
const VERSION: i16 = 7;

#[derive(Debug, Clone, clap::Args)]
pub(super) struct Args {
    /// Where the broker listens.
    #[arg(long, default_value = "127.0.0.1:9092", value_name = "HOST:PORT")]
    pub(super) broker: String,
    /// Topic to write to; created if it does not exist.
    #[arg(long, default_value = "bench")]
    pub(super) topic: String,
    /// Partitions to write to.
    #[arg(long, default_value_t = 1)]
    pub(super) partitions: i32,
    /// Configs that the topic is created with, such as durability=none.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(super) topic_config: Vec<String>,
    /// Connections, each on a thread (two with --rate).
    #[arg(long, default_value_t = 1)]
    pub(super) connections: usize,
    /// Requests in flight on each connection (closed loop).
    #[arg(long, default_value_t = 5)]
    pub(super) window: usize,
    /// Requests per second of all connections together (open loop).
    #[arg(long)]
    pub(super) rate: Option<f64>,
    /// Size of a record's value.
    #[arg(long, default_value_t = 1024)]
    pub(super) record_bytes: usize,
    /// Size of a batch, one batch a request; no larger than one record: no batching.
    #[arg(long, default_value_t = 16384)]
    pub(super) batch_bytes: usize,
    /// 1: when the leader has it; all: when it is durable by the topic's policy; 0: never.
    #[arg(long, default_value = "all", value_parser = ["0", "1", "all"])]
    pub(super) acks: String,
    /// Measured seconds.
    #[arg(long, default_value_t = 10.0)]
    pub(super) seconds: f64,
    /// Seconds before that, not measured.
    #[arg(long, default_value_t = 2.0)]
    pub(super) warmup: f64,
    /// Stop after so many requests on each connection, and measure all of them.
    #[arg(long)]
    pub(super) requests: Option<u64>,
    /// Zeros as payload instead of bytes that nothing can compress.
    #[arg(long)]
    pub(super) zeros: bool,
    /// Neither create the topic nor ask who leads: for `dejaq bench floor`.
    #[arg(long)]
    pub(super) no_metadata: bool,
    /// One JSON object instead of text.
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    measure(args)?.print(args.json)
}

impl Args {
    fn shape(&self) -> Shape {
        let acks = match self.acks.as_str() {
            "0" => 0,
            "1" => 1,
            _ => -1,
        };
        Shape {
            record_bytes: self.record_bytes,
            batch_bytes: self.batch_bytes,
            random: !self.zeros,
            acks,
            version: VERSION,
        }
    }
}

/// When a run begins to count and when it ends.
#[derive(Clone, Copy)]
struct Span {
    start: Instant,
    from: Instant,
    until: Instant,
    requests: u64,
}

impl Span {
    fn begin(args: &Args) -> Span {
        let start = Instant::now();
        let warmup = if args.requests.is_some() { 0.0 } else { args.warmup };
        let from = start + Duration::from_secs_f64(warmup);
        let seconds = if args.requests.is_some() { 3600.0 } else { args.seconds };
        let until = from + Duration::from_secs_f64(seconds);
        Span { start, from, until, requests: args.requests.unwrap_or(u64::MAX) }
    }

    fn counts(&self, at: Instant) -> bool {
        self.from <= at && at < self.until
    }
}

/// Runs the load and sums it up.
pub(super) fn measure(args: &Args) -> anyhow::Result<Summary> {
    anyhow::ensure!(args.connections > 0 && args.window > 0 && args.partitions > 0, "nothing to do");
    let leaders = if args.no_metadata {
        (0..args.partitions).map(|p| (p, args.broker.clone())).collect()
    } else {
        find_topic(&args.broker, &args.topic, args.partitions, &args.topic_config)?
    };
    let barrier = Arc::new(Barrier::new(args.connections + 1));
    let mut threads = Vec::new();
    for index in 0..args.connections {
        let mine: Vec<i32> = (0..args.partitions)
            .filter(|p| *p as usize % args.connections == index % args.partitions as usize % args.connections)
            .collect();
        let address = leaders.get(&mine[0]).context("the topic has fewer partitions than asked for")?;
        let mut templates = Vec::new();
        for seed in 0..TEMPLATES {
            for partition in mine.iter().filter(|p| leaders.get(p) == Some(address)) {
                templates.push(Template::new(
                    &args.shape(),
                    &args.topic,
                    *partition,
                    seed * 7_919 + index as u64,
                )?);
            }
        }
        let link = Link::connect(address)?;
        let (args, barrier) = (args.clone(), Arc::clone(&barrier));
        threads.push(std::thread::spawn(move || {
            barrier.wait();
            let span = Span::begin(&args);
            match args.rate {
                _ if args.acks == "0" => unanswered(&link, templates, span),
                Some(rate) => {
                    let pace = Pace { span, index, connections: args.connections, rate };
                    open_loop(link, templates, &pace, &args)
                }
                None => closed_loop(link, templates, span, &args),
            }
        }));
    }
    barrier.wait();
    let started = Instant::now();
    let mut all = Sample::new();
    for thread in threads {
        let sample = thread.join().map_err(|_| anyhow::anyhow!("a connection's thread panicked"))??;
        all.join(&sample);
    }
    let took = match args.requests {
        Some(_) => started.elapsed(),
        None => Duration::from_secs_f64(args.seconds),
    };
    Ok(all.summary(took))
}

/// Sends, one after the other, the frames of `templates` from `first` on; together, as few writes as can be.
fn send(stream: &mut TcpStream, templates: &mut [Template], first: u64, count: usize) -> io::Result<()> {
    let len = templates.len() as u64;
    let mut sent = 0;
    while sent < count {
        // A template can be in one write only once: its correlation id is in place.
        let run = (count - sent).min(templates.len()).min(MAX_VECTORS);
        let at = |i: usize| ((first + (sent + i) as u64) % len) as usize;
        for i in 0..run {
            templates[at(i)].number((first + (sent + i) as u64) as i32);
        }
        let mut slices: Vec<IoSlice<'_>> = (0..run).map(|i| IoSlice::new(&templates[at(i)].frame)).collect();
        let mut left = &mut slices[..];
        while !left.is_empty() {
            let written = stream.write_vectored(left)?;
            IoSlice::advance_slices(&mut left, written);
        }
        sent += run;
    }
    Ok(())
}

fn closed_loop(
    mut link: Link,
    mut templates: Vec<Template>,
    span: Span,
    args: &Args,
) -> anyhow::Result<Sample> {
    let mut sender = link.sender()?;
    let mut sample = Sample::new();
    let mut sent_at = VecDeque::new();
    let (mut sent, mut answered) = (0_u64, 0_u64);
    loop {
        let now = Instant::now();
        if now >= span.until || answered == span.requests {
            return Ok(sample);
        }
        let free = (args.window - sent_at.len()).min((span.requests - sent) as usize);
        send(&mut sender, &mut templates, sent, free)?;
        sent += free as u64;
        sent_at.extend(std::iter::repeat_n(now, free));
        let mut response = Some(link.receive()?);
        let at = Instant::now();
        while let Some(frame) = response {
            let template = &templates[(answered % templates.len() as u64) as usize];
            let intended = sent_at.pop_front().context("an answer that nobody asked for")?;
            count(&mut sample, &frame, answered, template, args)?;
            if span.counts(at) {
                sample.answered(template.records, template.batch_bytes, at - intended);
            }
            answered += 1;
            response = link.take();
        }
    }
}

/// How an open loop is paced: connection `index` sends every n-th request of the whole rate.
struct Pace {
    span: Span,
    index: usize,
    connections: usize,
    rate: f64,
}

impl Pace {
    /// When request `number` of this connection is meant to leave.
    fn intended(&self, number: u64) -> Instant {
        let global = number as f64 * self.connections as f64 + self.index as f64;
        self.span.start + Duration::from_secs_f64(global / self.rate)
    }

    /// How many requests this connection sends in all.
    fn total(&self) -> u64 {
        let seconds = (self.span.until - self.span.start).as_secs_f64();
        ((seconds * self.rate / self.connections as f64) as u64).clamp(1, self.span.requests)
    }
}

fn open_loop(mut link: Link, templates: Vec<Template>, pace: &Pace, args: &Args) -> anyhow::Result<Sample> {
    let mut stream = link.sender()?;
    let mut to_send = templates.clone();
    let total = pace.total();
    std::thread::scope(|scope| {
        let sender = scope.spawn(move || -> io::Result<()> {
            let mut sent = 0;
            while sent < total {
                let now = Instant::now();
                let next = pace.intended(sent);
                if next > now {
                    std::thread::sleep(next - now);
                    continue;
                }
                let mut due = 1;
                while sent + due < total && pace.intended(sent + due) <= now {
                    due += 1;
                }
                send(&mut stream, &mut to_send, sent, due as usize)?;
                sent += due;
            }
            Ok(())
        });
        let mut sample = Sample::new();
        for number in 0..total {
            let frame = link.receive()?;
            let at = Instant::now();
            let template = &templates[(number % templates.len() as u64) as usize];
            count(&mut sample, &frame, number, template, args)?;
            let intended = pace.intended(number);
            if pace.span.counts(intended) {
                sample.answered(template.records, template.batch_bytes, at - intended);
            }
        }
        sender.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??;
        Ok(sample)
    })
}

/// acks=0: nothing comes back; what the socket took is counted.
fn unanswered(link: &Link, mut templates: Vec<Template>, span: Span) -> anyhow::Result<Sample> {
    let mut stream = link.sender()?;
    let mut sample = Sample::new();
    let mut sent = 0;
    while sent < span.requests {
        let now = Instant::now();
        if now >= span.until {
            break;
        }
        send(&mut stream, &mut templates, sent, 1)?;
        if span.counts(now) {
            let template = &templates[(sent % templates.len() as u64) as usize];
            sample.answered(template.records, template.batch_bytes, now.elapsed());
        }
        sent += 1;
    }
    Ok(sample)
}

/// Checks that a response answers its request and says that all is well.
fn count(sample: &mut Sample, frame: &[u8], number: u64, _of: &Template, args: &Args) -> anyhow::Result<()> {
    let at = error_code_at(&args.topic);
    let correlation = frame.first_chunk::<4>().context("a response without a correlation id")?;
    anyhow::ensure!(i32::from_be_bytes(*correlation) == number as i32, "answers came out of order");
    let code = frame.get(at..at + 2).context("a response that is too short")?;
    if code != [0, 0] {
        sample.errors += 1;
        if sample.errors == 1 {
            eprintln!("the broker answers with error {}", i16::from_be_bytes([code[0], code[1]]));
        }
    }
    Ok(())
}
