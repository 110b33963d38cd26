//! A controller without a disk, for the tests of API handlers.

use super::*;

/// Decides at once and forgets at the end; everything else is as in the driver.
pub(crate) fn imaginary(mut image: Image, settings: Settings, published: Published) -> Controller {
    let (mailbox, mut inbox) = mpsc::channel(MAILBOX);
    drop(tokio::spawn(async move {
        let mut entropy_state = 1_u64;
        while let Some(Mail::Request(request)) = inbox.recv().await {
            let mut draft = Draft::on(&image);
            let mut entropy = || {
                entropy_state = entropy_state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                entropy_state
            };
            let mut context = Context { settings: &settings, entropy: &mut entropy };
            let release = request.decide(&mut draft, &mut context);
            let end = image.end().plus(i64::try_from(draft.records().len()).expect("few"));
            image = draft.into_image(end);
            let current = Arc::new(image.clone());
            published.publish(current.clone());
            published.applied(&current);
            release(Ok(end));
        }
    }));
    Controller { mailbox, stopped: Arc::default() }
}
