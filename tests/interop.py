#!/usr/bin/env python3
"""Checks an export of one chain (docs/interop.md), without any code of the log's own.

    interop.py DIR [--key VKEY]
    interop.py --self-test

DIR      the directory that `stele export interop` wrote
--key    the public key, name+id+base64, that must have signed a checkpoint for every segment; without it an
         export can only be found to agree with itself

Python 3.8 or later, standard library only, written from the page alone. BLAKE3, which the standard library does
not have, and Ed25519 are below.

Exit code 0 and "verified ..."; 3 and one sentence when something does not hold; 1 when a file cannot be read;
2 for wrong arguments. Not checked: that characters are assigned in the log's version of Unicode.
"""
import argparse
import base64
import binascii
import hashlib
import json
import os
import re
import shutil
import struct
import sys
import tempfile
import unicodedata

MAX_RECORD, MAX_ATTRS, MAX_PAYLOAD, MAX_SEGMENTS = 4096, 1024, 1 << 20, 65536
HASH_TEXT = re.compile("b3:[0-9a-f]{64}")


class Bad(Exception):
    """Something does not hold; the message says what and where."""


# BLAKE3 (https://github.com/BLAKE3-team/BLAKE3-specs), unoptimised


IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
PERMUTATION = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
CHUNK_START, CHUNK_END, PARENT, ROOT, KEYED = 1, 2, 4, 8, 16
MASK = 0xFFFFFFFF
MIXES = ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
         (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14))  # fmt: skip


def compress(chain, block, counter, length, flags):
    """Eight words of the compression function's output."""
    m = list(struct.unpack("<16I", block.ljust(64, b"\0")))
    s = [*chain, *IV[:4], counter & MASK, counter >> 32 & MASK, length, flags]
    for _ in range(7):
        for i, (a, b, c, d) in enumerate(MIXES):
            va, vb, vc, vd = s[a], s[b], s[c], s[d]
            va = (va + vb + m[2 * i]) & MASK
            vd ^= va
            vd = (vd >> 16 | vd << 16) & MASK
            vc = (vc + vd) & MASK
            vb ^= vc
            vb = (vb >> 12 | vb << 20) & MASK
            va = (va + vb + m[2 * i + 1]) & MASK
            vd ^= va
            vd = (vd >> 8 | vd << 24) & MASK
            vc = (vc + vd) & MASK
            vb ^= vc
            s[a], s[b], s[c], s[d] = va, (vb >> 7 | vb << 25) & MASK, vc, vd
        m = [m[i] for i in PERMUTATION]
    return tuple(s[i] ^ s[i + 8] for i in range(8))


def words(eight):
    return struct.pack("<8I", *eight)


def chunk_value(key, data, counter, flags, root):
    chain = key
    blocks = [data[i : i + 64] for i in range(0, len(data), 64)] or [b""]
    for i, block in enumerate(blocks):
        last = i == len(blocks) - 1
        block_flags = flags | (CHUNK_START if i == 0 else 0) | (CHUNK_END | root if last else 0)
        chain = compress(chain, block, counter, len(block), block_flags)
    return chain


def blake3(data, key=None):
    """32 bytes of BLAKE3, keyed where there is a key of 32 bytes."""
    flags = 0 if key is None else KEYED
    start = IV if key is None else struct.unpack("<8I", key)

    def subtree(data, counter, root):
        if len(data) <= 1024:
            return chunk_value(start, data, counter, flags, root)
        chunks = (len(data) - 1) // 1024
        left = 1 << (chunks.bit_length() - 1)  # the largest power of two that leaves something on the right
        pair = subtree(data[: left * 1024], counter, 0), subtree(data[left * 1024 :], counter + left, 0)
        return compress(start, words(pair[0]) + words(pair[1]), 0, 64, flags | PARENT | root)

    return words(subtree(data, 0, ROOT))


def hash_text(digest):
    return "b3:" + digest.hex()


def tree_root(leaves):
    """Neighbours are joined in pairs, an odd last one is carried up."""
    level = list(leaves)
    while len(level) > 1:
        pairs = [level[i : i + 2] for i in range(0, len(level), 2)]
        level = [blake3(b"\1" + b"".join(pair)) if len(pair) == 2 else pair[0] for pair in pairs]
    return level[0]


# Ed25519 (RFC 8032)


P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P


def add(p, q):
    a, b = (p[1] - p[0]) * (q[1] - q[0]) % P, (p[1] + p[0]) * (q[1] + q[0]) % P
    c, d = 2 * p[3] * q[3] * D % P, 2 * p[2] * q[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return (e * f % P, g * h % P, f * g % P, e * h % P)


def multiply(scalar, point):
    result = (0, 1, 1, 0)
    while scalar > 0:
        if scalar & 1:
            result = add(result, point)
        point = add(point, point)
        scalar >>= 1
    return result


def same_point(p, q):
    return (p[0] * q[2] - q[0] * p[2]) % P == 0 and (p[1] * q[2] - q[1] * p[2]) % P == 0


def decode_point(data):
    number = int.from_bytes(data, "little")
    y, sign = number & ((1 << 255) - 1), number >> 255
    if y >= P:
        return None
    x2 = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(x2, (P + 3) // 8, P)
    if (x * x - x2) % P != 0:
        x = x * pow(2, (P - 1) // 4, P) % P
    if (x * x - x2) % P != 0 or (x == 0 and sign == 1):
        return None
    x = P - x if x % 2 != sign else x
    return (x, y, 1, x * y % P)


BASE = decode_point((4 * pow(5, P - 2, P) % P).to_bytes(32, "little"))


def ed25519_verify(public_key, message, signature):
    a, r = decode_point(public_key), decode_point(signature[:32])
    s = int.from_bytes(signature[32:], "little")
    if a is None or r is None or s >= L:
        return False
    if any(same_point(multiply(8, point), (0, 1, 1, 0)) for point in (a, r)):
        return False
    k = int.from_bytes(hashlib.sha512(signature[:32] + public_key + message).digest(), "little") % L
    return same_point(multiply(s, BASE), add(r, multiply(k, a)))


def unbase64(text, what, length):
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Bad(f"{what} is not base64") from None
    if base64.b64encode(data).decode() != text or len(data) != length:
        raise Bad(f"{what} is not {length} bytes in base64")
    return data


def parse_vkey(vkey):
    """(signer_key_id, public key)."""
    parts = re.fullmatch("([^\\s+]+)\\+([0-9a-f]{8})\\+([A-Za-z0-9+/=]+)", vkey)
    if not parts:
        raise Bad("the key is not of the form name+id+base64")
    data = unbase64(parts[3], "the key", 33)
    if data[0] != 1 or hashlib.sha256(parts[1].encode() + b"\n" + data).hexdigest()[:8] != parts[2]:
        raise Bad("the key is not of type 01, or its id is not its own")
    return f"{parts[1]}+{parts[2]}", data[1:]


# A record


FIELDS = ["v", "ts_ms", "writer_id", "seq", "stream", "kind", "actor", "subject", "reason", "attrs", "prev"]
ESCAPES = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
LABEL = re.compile("[A-Za-z][A-Za-z0-9_.-]{0,63}")


def canonical_string(text):
    if unicodedata.normalize("NFC", text) != text:
        raise Bad("a string is not in normal form C")
    return '"' + "".join(ESCAPES.get(c, c if c >= " " else f"\\u{ord(c):04x}") for c in text) + '"'


def canonical(value, top=False, depth=0):
    """The only text that a value has."""
    if depth > 9:
        raise Bad("it is nested too deep")
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int):
        if not -(1 << 63) <= value < 1 << 64:
            raise Bad("a number has more than 64 bits")
        return str(value)
    if isinstance(value, str):
        return canonical_string(value)
    if isinstance(value, list):
        return "[" + ",".join(canonical(member, depth=depth + 1) for member in value) + "]"
    if isinstance(value, dict):
        keys = FIELDS if top else sorted(value, key=lambda key: key.encode("utf-16-be"))
        members = (canonical_string(key) + ":" + canonical(value[key], depth=depth + 1) for key in keys)
        return "{" + ",".join(members) + "}"
    raise Bad("a number is not an integer")


def is_number(value, least=0):
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < 1 << 64


def is_name(value):
    return isinstance(value, str) and 1 <= len(value.encode()) <= 128 and not any(
        unicodedata.category(c) == "Cc" for c in value
    )


def no_duplicates(pairs):
    result = dict(pairs)
    if len(result) != len(pairs):
        raise Bad("a key stands twice")
    return result


def no_float(text):
    raise Bad(f"{text} is not an integer")


def read_json(data):
    try:
        text = data.decode("utf-8")
        return json.loads(text, object_pairs_hook=no_duplicates, parse_float=no_float, parse_constant=no_float)
    except (UnicodeDecodeError, ValueError, RecursionError):
        raise Bad("Schema: it is not JSON in UTF-8") from None


def parse_record(data):
    """A canonical record as a dictionary."""
    record = read_json(data)
    if not isinstance(record, dict) or set(record) != set(FIELDS):
        raise Bad("Schema: the keys are not those of a record")
    try:
        text = canonical(record, top=True).encode()
    except UnicodeEncodeError:
        raise Bad("Schema: it holds half of a surrogate pair") from None
    if text != data:
        raise Bad("Schema: the record is not canonical")
    seq, prev, actor, subject = record["seq"], record["prev"], record["actor"], record["subject"]
    content_id = subject.get("content_id", "b3:0") if isinstance(subject, dict) else None
    holds = [
        record["v"] == 1 and is_number(record["v"]),
        is_number(record["ts_ms"]) and is_number(seq, 1),
        is_name(record["writer_id"]) and is_name(record["stream"]),
        all(isinstance(record[key], str) and LABEL.fullmatch(record[key]) for key in ("kind", "reason")),
        isinstance(actor, dict) and set(actor) <= {"anon", "cap_id", "key_fpr", "passport_id"},
        isinstance(actor, dict) and actor.get("anon", True) is True,
        isinstance(actor, dict) and all(isinstance(value, str) for key, value in actor.items() if key != "anon"),
        isinstance(subject, dict) and set(subject) <= {"content_id", "ledger_txid", "name"},
        isinstance(subject, dict) and all(isinstance(value, str) for value in subject.values()),
        isinstance(content_id, str) and re.fullmatch("b3:[0-9a-f]{1,64}", content_id),
        isinstance(record["attrs"], dict) and len(canonical(record["attrs"]).encode()) <= MAX_ATTRS,
        isinstance(prev, str) and (prev == "b3:0" if seq == 1 else HASH_TEXT.fullmatch(prev)),
    ]
    if not all(holds):
        raise Bad("Schema: a field has a value that it cannot have")
    return record


# The files


def read_file(directory, name, missing_ok=False):
    try:
        with open(os.path.join(directory, name), "rb") as file:
            return file.read()
    except FileNotFoundError:
        if missing_ok:
            return None
        raise Bad(f"{name} is missing") from None


class Bytes:
    """A file, read from front to back."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, length):
        if self.at + length > len(self.data):
            raise Bad("the file ends too early")
        self.at += length
        return self.data[self.at - length : self.at]

    def end(self):
        if self.at != len(self.data):
            raise Bad("bytes follow the last record or payload")


def read_header(bytes_, magic):
    found, flags, count, reserved = struct.unpack("<8sHI18s", bytes_.take(32))
    if found != magic or flags != 0 or any(reserved) or count == 0:
        raise Bad("the header is not that of a complete file")
    return count


def is_exactly(value, fields):
    return isinstance(value, dict) and set(value) == set(fields.split())


def read_range(value):
    if not (isinstance(value, list) and len(value) == 2 and is_number(value[0], 1) and is_number(value[1], value[0])):
        raise Bad("a range is not the first and the last seq")
    return value[0], value[1]


def read_manifest(data):
    manifest = read_json(data)
    if not is_exactly(manifest, "version stream writer_id segments checkpoints created_ts_ms"):
        raise Bad("the fields are not those of a manifest")
    segments, checkpoints = manifest["segments"], manifest["checkpoints"]
    if not (manifest["version"] == 1 and is_number(manifest["version"]) and is_number(manifest["created_ts_ms"])):
        raise Bad("version or created_ts_ms is wrong")
    if not (is_name(manifest["stream"]) and is_name(manifest["writer_id"])):
        raise Bad("stream or writer_id is no name")
    if not (isinstance(segments, list) and 1 <= len(segments) <= MAX_SEGMENTS):
        raise Bad("there must be 1 to 65,536 segments")
    if not (isinstance(checkpoints, list) and len(checkpoints) <= MAX_SEGMENTS):
        raise Bad("there must be at most 65,536 checkpoints")
    number, after = -1, None
    for segment in segments:
        if not is_exactly(segment, "file offset count range root"):
            raise Bad("the fields are not those of a segment")
        name = re.fullmatch("wal-([0-9]{6,20})\\.seg", str(segment["file"]))
        if not name or f"wal-{int(name[1]):06}.seg" != segment["file"] or int(name[1]) <= number:
            raise Bad(f"{segment['file']!r} is no name of a segment, or not in order")
        first, last = read_range(segment["range"])
        if not (is_number(segment["offset"]) and segment["offset"] == 0 and segment["count"] == last - first + 1):
            raise Bad("offset or count of a segment is wrong")
        if after is not None and first != after:
            raise Bad("a segment does not follow the one before")
        if not (isinstance(segment["root"], str) and HASH_TEXT.fullmatch(segment["root"])):
            raise Bad("a root is no hash")
        number, after = int(name[1]), last + 1
    roots = {tuple(segment["range"]): segment["root"] for segment in segments}
    after = 0
    for checkpoint in checkpoints:
        if not is_exactly(checkpoint, "range root signer_key_id alg sig"):
            raise Bad("the fields are not those of a checkpoint")
        first, last = read_range(checkpoint["range"])
        if first < after or roots.get((first, last)) != checkpoint["root"]:
            raise Bad("a checkpoint is not that of a segment, or not in order")
        if checkpoint["alg"] != "ed25519" or not isinstance(checkpoint["signer_key_id"], str):
            raise Bad("a checkpoint is not signed with ed25519")
        unbase64(str(checkpoint["sig"]), "a signature", 64)
        after = last + 1
    return manifest


def check_signatures(manifest, vkey):
    key_id, public_key = parse_vkey(vkey)
    signed = {tuple(checkpoint["range"]): checkpoint for checkpoint in manifest["checkpoints"]}
    for segment in manifest["segments"]:
        first, last = segment["range"]
        checkpoint = signed.pop((first, last), None)
        if checkpoint is None or checkpoint["signer_key_id"] != key_id:
            raise Bad(f"{segment['file']} has no checkpoint by {key_id}")
        text = (
            f"stele-interop-checkpoint/v1\nrange {first} {last}\nroot {segment['root']}\n"
            f"stream {manifest['stream']}\nwriter_id {manifest['writer_id']}\n"
        )
        if not ed25519_verify(public_key, text.encode(), base64.b64decode(checkpoint["sig"])):
            raise Bad(f"the signature over {segment['file']} does not hold")


def read_slot(slots, record, commitment):
    """Takes the next slot and holds it against the record."""
    seq, length = struct.unpack("<QI", slots.take(12))
    salt = slots.take(32)
    if seq != record["seq"] or length > MAX_PAYLOAD or length != commitment["len"]:
        raise Bad("the slot is not that of the record")
    if hash_text(blake3(slots.take(length), key=salt)) != commitment["hash"]:
        raise Bad("the payload is not the one that the record commits to")


class Chain:
    """What a record must follow."""

    def __init__(self, manifest):
        self.names = manifest["stream"], manifest["writer_id"]
        self.seq, self.prev = manifest["segments"][0]["range"][0], None

    def take(self, frames):
        """The next record and its hash."""
        length, version, seq = struct.unpack("<IBQ", frames.take(13))
        if length > MAX_RECORD:
            raise Bad("SizeExceeded: a record has more than 4,096 bytes")
        data = frames.take(length)
        hash_length = struct.unpack("<I", frames.take(4))[0]
        if version != 1 or hash_length != 67:
            raise Bad("Schema: v is not 1, or self_hash_len not 67")
        claimed, digest = frames.take(67), blake3(data)
        if claimed != hash_text(digest).encode():
            raise Bad(f"HashMismatch: the record hashes to {hash_text(digest)}")
        record = parse_record(data)
        if (record["stream"], record["writer_id"]) != self.names:
            raise Bad("Schema: the record is of another stream or writer")
        if not seq == record["seq"] == self.seq:
            raise Bad(f"SeqMismatch: expected seq {self.seq}")
        if self.prev is not None and record["prev"] != self.prev:
            raise Bad(f"PrevMismatch: expected prev {self.prev}")
        self.seq, self.prev = self.seq + 1, hash_text(digest)
        return record, digest


def verify_segment(directory, segment, chain):
    """Raises Bad, or answers how many payloads came along."""
    payload_name = segment["file"][:-4] + ".pay"
    stored = read_file(directory, payload_name, missing_ok=True)
    frames, slots = Bytes(read_file(directory, segment["file"])), None if stored is None else Bytes(stored)
    name, taken, hashes = segment["file"], 0, []
    try:
        if read_header(frames, b"RON-AUD\1") != segment["count"]:
            raise Bad("the header's count is not that of the manifest")
        if slots is not None:
            name = payload_name
            slots_left = read_header(slots, b"STELPAY\1")
        for _ in range(segment["count"]):
            name = f"{segment['file']}, byte {frames.at}, seq {chain.seq}"
            record, digest = chain.take(frames)
            hashes.append(digest)
            commitment = record["attrs"].get("payload")
            if commitment is None:
                continue
            if not (is_exactly(commitment, "hash len") and is_number(commitment["len"])
                    and isinstance(commitment["hash"], str) and HASH_TEXT.fullmatch(commitment["hash"])):  # fmt: skip
                raise Bad("Schema: the payload commitment is malformed")
            if slots is not None:
                name = f"{payload_name}, byte {slots.at}, seq {record['seq']}"
                read_slot(slots, record, commitment)
                taken += 1
        name = segment["file"]
        frames.end()
        if hash_text(tree_root(hashes)) != segment["root"]:
            raise Bad(f"RootMismatch: the records have {hash_text(tree_root(hashes))}")
        if slots is not None:
            name = payload_name
            slots.end()
            if slots_left != taken:
                raise Bad("the header's count is not the number of payloads that records commit to")
    except Bad as bad:
        raise Bad(f"{name}: {bad}") from None
    return taken


def verify(directory, vkey=None):
    """Raises Bad, or answers (manifest, number of payloads)."""
    try:
        manifest = read_manifest(read_file(directory, "manifest.json"))
    except Bad as bad:
        raise Bad(f"manifest.json: {bad}") from None
    if vkey is not None:
        check_signatures(manifest, vkey)
    chain = Chain(manifest)
    payloads = sum(verify_segment(directory, segment, chain) for segment in manifest["segments"])
    return manifest, payloads


# Self-test


BLAKE3_VECTORS = [  # of the BLAKE3 specification: input is 0, 1, ..., 250, 0, 1, ...; plain and keyed
    (0, "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
     "92b2b75604ed3c761f9d6f62392c8a9227ad0ea3f09573e783f1498a4ed60d26"),
    (1, "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213",
     "6d7878dfff2f485635d39013278ae14f1454b8c0a3a2d34bc1ab38228a80c95b"),
    (1024, "42214739f095a406f3fc83deb889744ac00df831c10daa55189b5d121c855af7",
     "75c46f6f3d9eb4f55ecaaee480db732e6c2105546f1e675003687c31719c7ba4"),
    (1025, "d00278ae47eb27b34faecf67b4fe263f82d5412916c1ffd97c8cb7fb814b8444",
     "357dc55de0c7e382c900fd6e320acc04146be01db6a8ce7210b7189bd664ea69"),
    (3073, "7124b49501012f81cc7f11ca069ec9226cecb8a2c850cfe644e327d22d3e1cd3",
     "68dede9bef00ba89e43f31a6825f4cf433389fedae75c04ee9f0cf16a427c95a"),
]  # fmt: skip
BLAKE3_KEY = b"whats the Elvish word for friend"


def found_in(directory, name, data, vkey):
    """The vector with one file changed; answers what is found."""
    with tempfile.TemporaryDirectory() as scratch:
        copy = os.path.join(scratch, "export")
        shutil.copytree(directory, copy)
        os.chmod(os.path.join(copy, name), 0o600)
        with open(os.path.join(copy, name), "wb") as file:
            file.write(data)
        try:
            verify(copy, vkey)
        except Bad as bad:
            return str(bad)
    return None


def split(manifest, first, second):
    """Two segments in place of one."""
    one = manifest["segments"][0]
    manifest["segments"] = [
        {**one, "range": list(first), "count": first[1] - first[0] + 1},
        {**one, "file": "wal-000001.seg", "range": list(second), "count": second[1] - second[0] + 1},
    ]
    manifest["checkpoints"] = []


def set_in(part, **fields):
    """A change of fields of the first segment or checkpoint."""
    return lambda manifest: manifest[part][0].update(fields)


MANIFEST_CHANGES = [
    ("another version", lambda m: m.update(version=2)),
    ("a version that is no integer", lambda m: m.update(version=True)),
    ("another stream", lambda m: m.update(stream="egress")),
    ("another writer", lambda m: m.update(writer_id="w")),
    ("an empty stream", lambda m: m.update(stream="")),
    ("a long writer", lambda m: m.update(writer_id="w" * 129)),
    ("a control character", lambda m: m.update(stream="in\ngress")),
    ("an unknown field", lambda m: m.update(comment="x")),
    ("a missing field", lambda m: m.pop("created_ts_ms")),
    ("a negative time", lambda m: m.update(created_ts_ms=-1)),
    ("a time with a point", lambda m: m.update(created_ts_ms=1.0)),
    ("no segments", lambda m: m.update(segments=[], checkpoints=[])),
    ("no checkpoint for a segment", lambda m: m.update(checkpoints=[])),
    ("a checkpoint twice", lambda m: m.update(checkpoints=m["checkpoints"] * 2)),
    ("a file twice", lambda m: m.update(segments=m["segments"] * 2)),
    ("a gap", lambda m: split(m, (100, 149), (151, 199))),
    ("an overlap", lambda m: split(m, (100, 150), (150, 199))),
    ("a missing file", lambda m: split(m, (100, 149), (150, 199))),
    ("a short name", set_in("segments", file="wal-0.seg")),
    ("a name with a further zero", set_in("segments", file="wal-0000000.seg")),
    ("a name elsewhere", set_in("segments", file="../interop/wal-000000.seg")),
    ("an offset", set_in("segments", offset=8)),
    ("another count", set_in("segments", count=99)),
    ("fewer records", lambda m: (set_in("segments", range=[100, 198], count=99)(m), m.update(checkpoints=[]))),
    ("an earlier start", lambda m: (set_in("segments", range=[99, 198])(m), m.update(checkpoints=[]))),
    ("seq 0", set_in("segments", range=[0, 99])),
    ("a range backwards", set_in("segments", range=[199, 100])),
    ("another root", lambda m: (set_in("segments", root="b3:" + "0" * 64)(m), m.update(checkpoints=[]))),
    ("a root in upper case", lambda m: set_in("segments", root="b3:" + m["segments"][0]["root"][3:].upper())(m)),
    ("a checkpoint's other root", set_in("checkpoints", root="b3:" + "0" * 64)),
    ("a checkpoint's other range", set_in("checkpoints", range=[100, 198])),
    ("another key", set_in("checkpoints", signer_key_id="export+00000000")),
    ("another algorithm", set_in("checkpoints", alg="ed448")),
    ("another signature", set_in("checkpoints", sig=base64.b64encode(bytes(64)).decode())),
    ("a short signature", set_in("checkpoints", sig=base64.b64encode(bytes(63)).decode())),
    ("no base64", set_in("checkpoints", sig="?")),
]


def self_test():
    for length, plain, keyed in BLAKE3_VECTORS:
        data = bytes(i % 251 for i in range(length))
        assert blake3(data).hex() == plain, f"BLAKE3 of {length} bytes"
        assert blake3(data, BLAKE3_KEY).hex() == keyed, f"keyed BLAKE3 of {length} bytes"
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    directory = os.path.join(root, "tests", "vectors", "interop")
    with open(os.path.join(root, "docs", "interop.md"), encoding="utf-8") as file:
        vkey, expected = re.findall("^    (\\S+\\+[0-9a-f]{8}\\+\\S+|b3:[0-9a-f]{64})$", file.read(), re.M)
    manifest, payloads = verify(directory, vkey)
    assert manifest["segments"][0]["range"] == [100, 199] and manifest["segments"][0]["root"] == expected
    assert payloads > 0
    for name in sorted(os.listdir(directory)):
        with open(os.path.join(directory, name), "rb") as file:
            good = file.read()
        # Bytes of every kind of field, and then some across the file.
        places = sorted({*range(0, 60, 3), *range(0, len(good), max(1, len(good) // 25)), len(good) - 1})
        for at in places:
            flipped = good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]
            if name == "manifest.json" and harmless(good, flipped):
                continue
            assert found_in(directory, name, flipped, vkey), f"{name}: a flipped bit in byte {at} is not found"
        for changed in (good[:-2], good + b"\0", b""):
            assert found_in(directory, name, changed, vkey), f"{name}: {len(changed)} bytes are accepted"
    # Every rule of the page for the manifest, one broken at a time.
    with open(os.path.join(directory, "manifest.json"), "rb") as file:
        text = file.read().decode()
    for what, change in MANIFEST_CHANGES:
        changed = json.loads(text)
        change(changed)
        assert found_in(directory, "manifest.json", json.dumps(changed).encode(), vkey), f"manifest: {what} is accepted"
    twice = text.replace('"version"', '"version": 1, "version"', 1)
    assert found_in(directory, "manifest.json", twice.encode(), vkey), "manifest: a duplicate field is accepted"
    # INTEROP 5.4: one byte of one record flipped, and its hash made right: the root shows it.
    with open(os.path.join(directory, "wal-000000.seg"), "rb") as file:
        data = bytearray(file.read())
    start = data.rindex(b'{"v":1')
    length = struct.unpack("<I", data[start - 13 : start - 9])[0]
    data[data.index(b'"ts_ms":', start) + 12] ^= 1
    data[start + length + 4 :] = hash_text(blake3(bytes(data[start : start + length]))).encode()
    what = found_in(directory, "wal-000000.seg", bytes(data), vkey)
    assert what and "RootMismatch" in what, what
    print("self-test: the vector holds, and every change of it is found")


def harmless(good, flipped):
    """Whether a change of the manifest is one of white space or of the time, which nothing covers."""
    try:
        one, two = json.loads(good), json.loads(flipped)
    except ValueError:
        return False
    one.pop("created_ts_ms")
    return two.pop("created_ts_ms", None) is not None and one == two


def main():
    parser = argparse.ArgumentParser(description="Checks an export of one chain.")
    parser.add_argument("directory", nargs="?", metavar="DIR")
    parser.add_argument("--key", metavar="VKEY")
    parser.add_argument("--self-test", action="store_true")
    arguments = parser.parse_args()
    if arguments.self_test:
        self_test()
        return 0
    if arguments.directory is None:
        parser.error("DIR is missing")
    try:
        manifest, payloads = verify(arguments.directory, arguments.key)
    except Bad as bad:
        print(f"not verified: {bad}", file=sys.stderr)
        return 3
    except OSError as error:
        print(f"cannot read: {error}", file=sys.stderr)
        return 1
    first, last = manifest["segments"][0]["range"][0], manifest["segments"][-1]["range"][1]
    print(f"verified seq {first} to {last} of {manifest['writer_id']!r} in {manifest['stream']!r}, {payloads} payloads")
    return 0


if __name__ == "__main__":
    sys.exit(main())
