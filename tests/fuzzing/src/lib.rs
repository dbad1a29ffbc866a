//! What every decoder must hold for any bytes: the bodies of the fuzz targets in `fuzz/`, callable by
//! ordinary tests.
//!
//! A target takes any bytes and panics where a decoder breaks its contract: what decodes must encode to the
//! same bytes again, what verifies must be what was signed, sizes stay in their bounds. Where bytes lie under
//! a checksum a target looks at them twice: as they came, and with the checksum made right, as a hostile
//! writer would.
//!
//! Not asked here: how files fit together (recovery, sealing, reading), and anything under concurrency.
//!
//! | module | targets |
//! |---|---|
//! | `record` | canonical form, the strict scanner, the builder |
//! | `text` | keys, notes, checkpoints, policies, proof files, tile paths |
//! | `tree` | proofs against the text of RFC 9162, digest tree, bytes of tiles |
//! | `frames` | frames, batches, memberships |
//! | `files` | headers, flush ring, generation files, sidecars, state files |
//! | `index` | mark, sheets and hash tables of the index |
//! | `interop` | manifest and files of exports |
//! | `bodies` | bodies of the log's own records |
//! | [`seeds`] | the seeds of the corpora |

mod bodies;
mod disk;
mod files;
mod fixture;
mod frames;
mod index;
mod interop;
mod record;
pub mod seeds;
mod text;
mod tree;

/// A target: its name, as in `fuzz/fuzz_targets/<name>.rs` and `fuzz/corpus/<name>/`, and its body.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] = &[
    ("batch_fuzz", frames::batch),
    ("canonicalize_fuzz", record::canonicalizing),
    ("checkpoint_fuzz", text::checkpoint),
    ("digest_tree_fuzz", tree::digest_tree),
    ("file_header_fuzz", files::file_header),
    ("frame_fuzz", frames::frame),
    ("generation_fuzz", files::generation),
    ("genesis_fuzz", bodies::genesis),
    ("hard_state_fuzz", files::hard_state),
    ("hash_table_fuzz", index::hash_table),
    ("index_mark_fuzz", index::mark),
    ("index_sheet_fuzz", index::sheet),
    ("interop_file_fuzz", interop::file),
    ("interop_manifest_fuzz", interop::manifest),
    ("key_fuzz", text::key),
    ("membership_fuzz", frames::membership),
    ("note_fuzz", text::note),
    ("policy_fuzz", text::policy),
    ("proof_file_fuzz", text::proof_file),
    ("record_build_fuzz", record::building),
    ("record_parse_fuzz", record::parsing),
    ("ring_fuzz", files::ring),
    ("segment_sealed_fuzz", bodies::segment_sealed),
    ("sidecar_fuzz", files::sidecar),
    ("signing_state_fuzz", files::signing_state),
    ("state_file_fuzz", files::state_file),
    ("tile_bytes_fuzz", tree::tile_bytes),
    ("tile_path_fuzz", text::tile_path),
    ("tree_proof_fuzz", tree::proofs),
];

/// Runs a target by its name.
///
/// # Panics
/// Where the target finds a fault, and where there is no such target.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|(known, _)| *known == name);
    let (_, body) = target.unwrap_or_else(|| panic!("there is no target {name}"));
    body(data);
}
