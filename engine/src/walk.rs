//! Walking the frames of a log from one tail to another, where all of them must be good.

use crate::directory::{LogDirectory, read_file_header, relative};
use crate::disk::{Access, Disk};
use crate::error::LogError;
use crate::frame::{Placed, Tail};
use crate::scan::{FrameScanner, Seen};
use crate::segment::SegmentFile;

/// What is called for each frame: the tail before it, its place, its body.
pub type Visit<'v> = dyn FnMut(&Tail, &Placed, &[u8]) -> Result<(), LogError> + 'v;

/// Visits every frame from `start` to `end`, in order.
///
/// # Errors
/// [`LogError::Damaged`] at the first place that is not the next frame; whatever `visit` answers.
pub fn walk(
    disk: &dyn Disk,
    directory: &LogDirectory,
    start: Tail,
    end: &Tail,
    visit: &mut Visit<'_>,
) -> Result<(), LogError> {
    let mut tail = start;
    while (tail.segment, tail.offset) < (end.segment, end.offset) {
        walk_segment(disk, directory, &mut tail, Some(end), visit)?;
    }
    Ok(())
}

/// Visits the frames of the tail's segment, up to its last one or, where given, up to `end`.
///
/// # Errors
/// As [`walk`].
pub(crate) fn walk_segment(
    disk: &dyn Disk,
    directory: &LogDirectory,
    tail: &mut Tail,
    end: Option<&Tail>,
    visit: &mut Visit<'_>,
) -> Result<(), LogError> {
    let segment = tail.segment;
    let name = SegmentFile::Frames(segment);
    let file = disk.open(&directory.segment_file(name), Access::Read)?;
    read_file_header(file.as_ref(), name)?;
    let mut scanner = FrameScanner::new(file.as_ref());
    while tail.segment == segment && end.is_none_or(|end| (tail.segment, tail.offset) < (end.segment, end.offset)) {
        let what = match scanner.at(tail)? {
            Seen::Frame(placed, body) => {
                visit(tail, &placed, body)?;
                tail.advance(&placed);
                continue;
            }
            Seen::Nothing => "a frame is missing".to_owned(),
            Seen::Bad(fault) => fault.to_string(),
        };
        return Err(LogError::damaged(relative(name), tail.offset.get(), Some(tail.leaves.next_leaf()), what));
    }
    Ok(())
}
