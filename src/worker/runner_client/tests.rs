//! A runner that was taken over says what it likes.

use std::time::Instant;

use prometheus::Opts;

use super::*;
use crate::ipc::runner::RunnerEnd;

const SUBJECT: HookSubject<'_> = HookSubject {
    name: "app/db",
    version: 1,
    kid: "k",
};

fn client(limit: Duration) -> (RunnerClient, RunnerEnd) {
    let counts = IntCounterVec::new(Opts::new("n", "n"), &["kind", "result"]).unwrap();
    let client = RunnerClient::new(limit, EventKind::ALL.to_vec(), counts);
    let (runner, ours) = RunnerEnd::pair().unwrap();
    client.connect(ours);
    assert!(matches!(
        runner.receive().unwrap(),
        (ToRunner::WorkerChanged, _)
    ));
    (client, runner)
}

fn hook(client: &RunnerClient) -> Result<(), HookError> {
    let hook = HookName::new("hook").unwrap();
    client.hook(&hook, HookPhase::Apply, &SUBJECT, None, b"value")
}

/// The number of the hook that was asked for.
fn asked(runner: &RunnerEnd) -> u64 {
    match runner.receive().unwrap() {
        (ToRunner::Hook(request), fds) => {
            assert_eq!(fds.len(), 1);
            request.id
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_answer_to_another_question_is_none() {
    let (client, runner) = client(Duration::from_secs(60));
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| hook(&client));
        let id = asked(&runner);
        for stray in [
            FromRunner::Hook(id.wrapping_add(1), ExitCause::Exited(0)),
            FromRunner::Pong(id - 1),
            FromRunner::Settled(id, DeliveryCounts::default()),
        ] {
            runner.send(&stray, &[]).unwrap();
        }
        runner
            .send(&FromRunner::Hook(id, ExitCause::Exited(7)), &[])
            .unwrap();
        // Nor does a second answer change the first.
        runner
            .send(&FromRunner::Hook(id, ExitCause::Exited(0)), &[])
            .unwrap();
        let answer = asking.join().unwrap();
        assert!(matches!(answer, Err(HookError::Failed(7))), "{answer:?}");
        let asking = scope.spawn(|| hook(&client));
        let id = asked(&runner);
        runner.send(&FromRunner::Pong(id), &[]).unwrap();
        let answer = asking.join().unwrap();
        assert!(matches!(answer, Err(HookError::Unanswered)), "{answer:?}");
    });
}

#[test]
fn fds_from_a_runner_are_closed() {
    let (client, runner) = client(Duration::from_secs(60));
    let (mut reader, writer) = io::pipe().unwrap();
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| client.alive());
        let (ToRunner::Ping(id), _) = runner.receive().unwrap() else {
            panic!("no ping");
        };
        runner
            .send(&FromRunner::Pong(id), &[writer.as_fd()])
            .unwrap();
        drop(writer);
        assert!(asking.join().unwrap());
    });
    // Its end comes when nobody has the other one any more.
    io::Read::read_to_end(&mut reader, &mut Vec::new()).unwrap();
}

fn cut_off(say: impl FnOnce(&RunnerEnd)) {
    let (client, runner) = client(Duration::from_secs(60));
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| hook(&client));
        asked(&runner);
        say(&runner);
        let answer = asking.join().unwrap();
        assert!(matches!(answer, Err(HookError::RunnerEnded)), "{answer:?}");
    });
    assert!(matches!(hook(&client), Err(HookError::NoRunner)));
    assert!(!client.alive());
    let end = runner.receive().unwrap_err();
    let kinds = [io::ErrorKind::UnexpectedEof, io::ErrorKind::ConnectionReset];
    assert!(kinds.contains(&end.kind()), "{end}");
    // Another one is as good as the first.
    let (runner, ours) = RunnerEnd::pair().unwrap();
    client.connect(ours);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| hook(&client));
        assert!(matches!(
            runner.receive().unwrap(),
            (ToRunner::WorkerChanged, _)
        ));
        let id = asked(&runner);
        runner
            .send(&FromRunner::Hook(id, ExitCause::Exited(0)), &[])
            .unwrap();
        asking.join().unwrap().unwrap();
    });
}

#[test]
fn what_is_no_message_cuts_it_off() {
    cut_off(|runner| {
        rustix::io::write(runner, &[200; 10]).unwrap();
    });
    cut_off(|runner| {
        rustix::io::write(runner, &vec![0; 64 * 1024]).unwrap();
    });
}

#[test]
fn too_much_that_nobody_asked_for_cuts_it_off() {
    cut_off(|runner| {
        let mut said = 0;
        loop {
            match runner.send(&FromRunner::Pong(1), &[]) {
                Ok(()) => said += 1,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    std::thread::yield_now();
                }
                Err(_) => break,
            }
        }
        assert!(said >= MAX_STRAY_ANSWERS, "{said}");
    });
}

#[test]
fn a_runner_that_says_nothing_is_not_waited_for_longer_than_it_may_take() {
    let (client, _runner) = client(Duration::ZERO);
    let begun = Instant::now();
    assert!(!client.alive());
    assert!(begun.elapsed() < 2 * PING_TIMEOUT);
    let waiting = client.shared.state.lock().waiting.len();
    assert_eq!(waiting, 0, "nothing of it is remembered");
}

#[test]
fn the_worst_is_a_lie_about_an_end() {
    let (client, runner) = client(Duration::from_secs(60));
    for (end, expected) in [
        (ExitCause::Exited(0), "Ok(())"),
        (ExitCause::Exited(255), "Err(Failed(255))"),
        (ExitCause::Killed(9), "Err(Killed(9))"),
        (ExitCause::TimedOut, "Err(TimedOut(60s))"),
        (
            ExitCause::Refused(StartRefusal::System(i32::MIN)),
            "Err(Refused(System(-2147483648)))",
        ),
        (ExitCause::Lost, "Err(RunnerEnded)"),
    ] {
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| hook(&client));
            let id = asked(&runner);
            runner.send(&FromRunner::Hook(id, end), &[]).unwrap();
            let answer = asking.join().unwrap();
            assert_eq!(format!("{answer:?}"), expected);
            // Whatever it says can be shown.
            answer.map_err(|error| error.to_string()).ok();
        });
    }
}

#[test]
fn notifications_never_block_and_are_bounded() {
    let (client, _runner) = client(Duration::from_secs(60));
    let begun = Instant::now();
    for _ in 0..5000 {
        client.notify(Event::new(EventKind::Expiry).reason(&"x".repeat(4000)));
    }
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(client.shared.state.lock().pending.len(), MAX_PENDING);
    let dropped = client
        .shared
        .counts
        .with_label_values(&["expiry", "dropped"]);
    assert_eq!(dropped.get(), 5000 - MAX_PENDING as u64);
}
