//! Records that are sent again after the leader has forgotten them.

use stele_api::v1::record_answer::Answer;
use stele_api::v1::{Draft, RefusalCode, SealSegmentRequest, Submission, submission};

use tokio::time::{sleep, timeout};

use crate::process::{Cluster, Extra, LOOK, ORIGIN, PATIENCE, Writer, append_one, code, submit};

/// Sends records again, and others under their identity.
async fn check(cluster: &Cluster, writer: &mut Writer, forger: &mut Writer) {
    let mut log = cluster.log(1).await;
    let numbers = [0, 1, 5, 39, 40, 299];
    let again = numbers.iter().map(|number| submit(&writer.finished(*number))).collect();
    let answers = append_one(&mut log, again).await;
    for (number, answer) in numbers.iter().zip(&answers) {
        let Some(Answer::Receipt(receipt)) = &answer.answer else { panic!("record {number}: {answer:?}") };
        assert_eq!(receipt.index, writer.acknowledged[*number], "the original position");
    }
    let forged = [2, 100].iter().map(|number| submit(&forger.finished(*number))).collect();
    let codes: Vec<RefusalCode> = append_one(&mut log, forged).await.iter().map(code).collect();
    assert_eq!(codes, [RefusalCode::Tamper; 2]);
}

#[tokio::test]
async fn an_identity_that_memory_has_lost_is_found_in_the_log_or_is_tamper() {
    let mut cluster = Cluster::configured(1, Extra { keys: "limits.remembered = 4", ..Extra::default() });
    cluster.start(1).await;
    let mut writer = Writer::new("w");
    writer.write(&cluster, 40).await;
    // Some of it in a sealed segment, some in the open one.
    let request = SealSegmentRequest { log: ORIGIN.to_owned() };
    cluster.admin(1).await.seal_segment(request).await.unwrap();
    writer.write(&cluster, 300).await;
    // Another chain of the same name, as somebody would make it who does not know the first.
    let mut forger = Writer::new("w").of_kind("L");
    check(&cluster, &mut writer, &mut forger).await;
    // The hash table of the sealed segment only makes it fast.
    let tables = || {
        let files = std::fs::read_dir(cluster.directory(1).join("segments")).unwrap();
        files.map(|file| file.unwrap().path()).filter(|path| path.extension().is_some_and(|name| name == "hashes"))
    };
    let sealed = async {
        while tables().count() == 0 {
            sleep(LOOK).await;
        }
    };
    timeout(PATIENCE, sealed).await.expect("no segment was sealed");
    tables().for_each(|path| std::fs::remove_file(path).unwrap());
    check(&cluster, &mut writer, &mut forger).await;
    // Not the forger's, and not twice.
    let draft = Draft { writer_id: "w".into(), stream: "s".into(), kind: "K".into(), ..Draft::default() };
    let draft = Submission { record: Some(submission::Record::Draft(draft)), payload: None };
    let Some(Answer::Receipt(last)) = append_one(&mut cluster.log(1).await, vec![draft]).await.remove(0).answer else {
        panic!()
    };
    let records = cluster.read_all(1).await;
    writer.check(&records[..usize::try_from(last.index).unwrap()]);
}
