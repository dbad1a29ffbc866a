#!/usr/bin/env python3
"""Checks that a record is in a log, without any code of the log's own.

    verify_proof.py RECORD PROOF [--key VKEY] [--origin NAME]
    verify_proof.py --self-test

RECORD   the record: its canonical JSON, or the finished record with "self_hash" as last key
PROOF    the .tlog-proof file (C2SP tlog-proof)
--key    the log's public key, name+id+base64 (C2SP signed-note, type 01): without it, nobody is known to
         have signed the root, and the proof shows only that record and file fit together
--origin the name that the log must have

Python 3.8 or later, standard library only. Four steps, all of them below:

 1. leaf:      SHA-256(0x00, canonical bytes of the record)                      RFC 6962 2.1
 2. path:      hash with one sibling after the other, up to a root              RFC 6962 2.1.1
 3. root:      it must be the one in the checkpoint that the file ends with     C2SP tlog-checkpoint
 4. signature: the log's Ed25519 signature over the checkpoint                  RFC 8032 5.1.7

What is not checked: `self_hash` is BLAKE3, which the standard library does not have; the leaf covers every
other byte of the record, so the proof does not need it. Cosignatures of witnesses are ignored.

Exit code 0 and "verified index N of size M, root ..."; 3 and one sentence when the proof does not hold; 1 when a
file cannot be read; 2 for wrong arguments.
"""
import argparse
import base64
import binascii
import hashlib
import re
import sys

MAX_RECORD = 4096 + 82 + 1  # canonical record, self_hash, one line feed
MAX_PROOF = 2 << 20


class Bad(Exception):
    """The proof does not hold; the message says why."""


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


# 1. The leaf


def canonical(record):
    """The bytes that the log hashed: without the final line feed and without self_hash."""
    if record.endswith(b"\n"):
        record = record[:-1]
    # The raw bytes are cut: reading and writing the JSON again might not give the same bytes.
    record = re.sub(rb',"self_hash":"b3:[0-9a-f]{64}"\}\Z', b"}", record)
    if not (record.startswith(b'{"v":1,') and record.endswith(b"}")):
        raise Bad("the record is not one canonical JSON object, with at most one line feed after it")
    return record


def leaf_hash(data):
    return sha256(b"\0", data)


def node_hash(left, right):
    return sha256(b"\1", left, right)


# 2. The path


def root_of_path(leaf, index, size, path):
    """The root that an inclusion proof leads to. Its length is fixed by index and size."""
    if not 0 <= index < size:
        raise Bad(f"index {index} is not in a tree of size {size}")
    result, last, siblings = leaf, size - 1, list(path)
    # `index` and `last` are the places of our node and of the last node, level by level, up to the root.
    while last > 0:
        if index % 2 == 1 or index < last:
            if not siblings:
                raise Bad(f"the proof is too short: {len(path)} hashes")
            sibling = siblings.pop(0)
            result = node_hash(sibling, result) if index % 2 == 1 else node_hash(result, sibling)
        # A last node without a sibling moves up as it is.
        index //= 2
        last //= 2
    if siblings:
        raise Bad(f"the proof is too long: {len(path)} hashes, {len(siblings)} of them not needed")
    return result


# 3. The proof file and its checkpoint


def unbase64(text, what, length=None):
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Bad(f"{what} is not base64") from None
    if base64.b64encode(data).decode() != text:
        raise Bad(f"{what} is not base64 in its only canonical form")
    if length is not None and len(data) != length:
        raise Bad(f"{what} has {len(data)} bytes, not {length}")
    return data


def decimal(text, what):
    if not re.fullmatch("0|[1-9][0-9]{0,19}", text) or int(text) >= 1 << 64:
        raise Bad(f"{what} is not a decimal number below 2^64 without leading zeros")
    return int(text)


def parse_proof(data):
    """A proof file: (index, path, note)."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise Bad("the proof file is not UTF-8") from None
    head, empty, note = text.partition("\n\n")
    lines = head.split("\n")
    if not empty or lines.pop(0) != "c2sp.org/tlog-proof@v1":
        raise Bad('the proof file does not begin with "c2sp.org/tlog-proof@v1", or has no empty line')
    if lines and lines[0].startswith("extra "):
        unbase64(lines.pop(0)[6:], "the extra line")  # nothing authenticates it
    if not lines or not lines[0].startswith("index "):
        raise Bad("the proof file has no index line")
    index = decimal(lines.pop(0)[6:], "the index")
    if len(lines) > 64:
        raise Bad(f"the proof has {len(lines)} hashes, more than any tree needs")
    return index, [unbase64(line, "a hash of the proof", 32) for line in lines], note


def parse_note(note):
    """A signed note: (text, [(key name, key id, signature)])."""
    if re.search("[\x00-\x09\x0b-\x1f]", note):
        raise Bad("the signed checkpoint holds a control character")
    text, empty, rest = note.rpartition("\n\n")
    if not empty or not rest.endswith("\n"):
        raise Bad("the checkpoint carries no signature lines")
    signatures = []
    for line in rest[:-1].split("\n"):
        parts = re.fullmatch("\u2014 ([^\\s+]+) ([A-Za-z0-9+/=]+)", line)
        blob = unbase64(parts[2], "a signature") if parts else b""
        if len(blob) < 5:
            raise Bad("a signature line of the checkpoint is malformed")
        signatures.append((parts[1], blob[:4], blob[4:]))
    return text + "\n", signatures


def parse_checkpoint(text):
    """The text of a checkpoint: (origin, size, root)."""
    lines = text.split("\n")
    if len(lines) != 4 or not lines[0] or lines[3]:
        raise Bad("the checkpoint is not three lines: origin, size, root")
    return lines[0], decimal(lines[1], "the tree size"), unbase64(lines[2], "the root", 32)


# 4. The signature


P = 2**255 - 19  # the field
L = 2**252 + 27742317777372353535851937790883648493  # the order of the base point
D = -121665 * pow(121666, P - 2, P) % P
SQRT_M1 = pow(2, (P - 1) // 4, P)


def point_add(p, q):
    """Adds two points in extended coordinates (X, Y, Z, T): x = X/Z, y = Y/Z, xy = T/Z (RFC 8032 5.1.4)."""
    a = (p[1] - p[0]) * (q[1] - q[0]) % P
    b = (p[1] + p[0]) * (q[1] + q[0]) % P
    c = 2 * p[3] * q[3] * D % P
    d = 2 * p[2] * q[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return (e * f % P, g * h % P, f * g % P, e * h % P)


def point_multiply(scalar, point):
    result = (0, 1, 1, 0)  # the neutral element
    while scalar > 0:
        if scalar & 1:
            result = point_add(result, point)
        point = point_add(point, point)
        scalar >>= 1
    return result


def point_equal(p, q):
    return (p[0] * q[2] - q[0] * p[2]) % P == 0 and (p[1] * q[2] - q[1] * p[2]) % P == 0


def recover_x(y, sign):
    """The x that belongs to y, of the given parity; None if there is none (RFC 8032 5.1.3)."""
    if y >= P:
        return None
    x2 = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(x2, (P + 3) // 8, P)
    if (x * x - x2) % P != 0:
        x = x * SQRT_M1 % P
    if (x * x - x2) % P != 0 or (x == 0 and sign == 1):
        return None
    return P - x if x % 2 != sign else x


def point_decode(data):
    number = int.from_bytes(data, "little")
    y = number & ((1 << 255) - 1)
    x = recover_x(y, number >> 255)
    return None if x is None else (x, y, 1, x * y % P)


BASE_Y = 4 * pow(5, P - 2, P) % P
BASE_X = recover_x(BASE_Y, 0)
BASE = (BASE_X, BASE_Y, 1, BASE_X * BASE_Y % P)


def ed25519_verify(public_key, message, signature):
    """Whether an Ed25519 signature holds (RFC 8032 5.1.7); keys and points of small order are refused."""
    if len(public_key) != 32 or len(signature) != 64:
        return False
    a, r = point_decode(public_key), point_decode(signature[:32])
    s = int.from_bytes(signature[32:], "little")
    if a is None or r is None or s >= L:
        return False
    if any(point_equal(point_multiply(8, point), (0, 1, 1, 0)) for point in (a, r)):
        return False
    k = int.from_bytes(hashlib.sha512(signature[:32] + public_key + message).digest(), "little") % L
    return point_equal(point_multiply(s, BASE), point_add(r, point_multiply(k, a)))


def parse_vkey(vkey):
    """A public key text: (name, key id, 32 bytes). The id is computed and compared."""
    parts = re.fullmatch("([^\\s+]+)\\+([0-9a-f]{8})\\+([A-Za-z0-9+/=]+)", vkey)
    if not parts:
        raise Bad("the key is not of the form name+id+base64")
    name, key_id = parts[1], bytes.fromhex(parts[2])
    key = unbase64(parts[3], "the key", 33)
    if key[0] != 1:
        raise Bad(f"the key is of type {key[0]:02x}, and a log's key is of type 01")
    if sha256(name.encode(), b"\n", key)[:4] != key_id:
        raise Bad("the key's id does not belong to its name and bytes")
    return name, key_id, key[1:]


def check_signature(text, signatures, vkey):
    name, key_id, public_key = parse_vkey(vkey)
    found = [signature for n, i, signature in signatures if (n, i) == (name, key_id)]
    if len(found) != 1:
        raise Bad(f"the checkpoint has {len(found)} signatures by the key {name}+{key_id.hex()}, expected one")
    if not ed25519_verify(public_key, text.encode(), found[0]):
        raise Bad(f"the signature of the checkpoint by {name}+{key_id.hex()} does not hold")
    return name


# All of it


def verify(record, proof, vkey=None, origin=None):
    """Raises Bad, or answers (index, size, root)."""
    leaf = leaf_hash(canonical(record))
    index, path, note = parse_proof(proof)
    text, signatures = parse_note(note)
    found, size, root = parse_checkpoint(text)
    if origin is not None and found != origin:
        raise Bad(f"the checkpoint is of the log {found!r}, not of {origin!r}")
    if vkey is not None and check_signature(text, signatures, vkey) != found:
        raise Bad(f"the key's name is not the checkpoint's origin, {found!r}")
    computed = root_of_path(leaf, index, size, path)
    if computed != root:
        raise Bad(f"the path leads to another root than the checkpoint's: {base64.b64encode(computed).decode()}")
    return index, size, root


# The test of this script itself


def tree_root(leaves):
    """RFC 6962 2.1, as it stands there."""
    if len(leaves) == 1:
        return leaves[0]
    k = 1 << (len(leaves) - 1).bit_length() - 1
    return node_hash(tree_root(leaves[:k]), tree_root(leaves[k:]))


def tree_path(index, leaves):
    """RFC 6962 2.1.1, as it stands there."""
    if len(leaves) == 1:
        return []
    k = 1 << (len(leaves) - 1).bit_length() - 1
    if index < k:
        return tree_path(index, leaves[:k]) + [tree_root(leaves[k:])]
    return tree_path(index - k, leaves[k:]) + [tree_root(leaves[:k])]


def ed25519_sign(seed, message):
    """For the test only: it takes no care to keep the seed secret. Answers (public key, signature)."""

    def encode(point):
        z = pow(point[2], P - 2, P)
        return (point[1] * z % P | (point[0] * z % P % 2) << 255).to_bytes(32, "little")

    digest = hashlib.sha512(seed).digest()
    a = int.from_bytes(digest[:32], "little") & ((1 << 254) - 8) | 1 << 254
    public_key = encode(point_multiply(a, BASE))
    r = int.from_bytes(hashlib.sha512(digest[32:] + message).digest(), "little") % L
    start = encode(point_multiply(r, BASE))
    k = int.from_bytes(hashlib.sha512(start + public_key + message).digest(), "little") % L
    return public_key, start + ((r + k * a) % L).to_bytes(32, "little")


def refuses(function, *arguments):
    try:
        function(*arguments)
    except Bad:
        return True
    return False


def self_test():
    """Yields the name of every case and whether it came out as it should."""
    # RFC 8032 7.1: TEST 1, TEST 2 and TEST 3.
    for seed, key, message, signature in (
        ("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
         "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a", "",
         "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
         "d25bf5f0595bbe24655141438e7a100b"),
        ("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
         "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c", "72",
         "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c"
         "387b2eaeb4302aeeb00d291612bb0c00"),
        ("c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
         "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025", "af82",
         "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc659"
         "4a7c15e9716ed28dc027beceea1ec40a"),
    ):
        seed, key, message, signature = map(bytes.fromhex, (seed, key, message, signature))
        yield "RFC 8032 signature made", ed25519_sign(seed, message) == (key, signature)
        yield "RFC 8032 signature", ed25519_verify(key, message, signature)
        for at in range(64):
            spoilt = bytearray(signature)
            spoilt[at] ^= 1
            yield f"signature with byte {at} changed", not ed25519_verify(key, message, bytes(spoilt))
        yield "another message", not ed25519_verify(key, message + b"x", signature)
        above = int.from_bytes(signature[32:], "little") + L
        yield "s above the order", not ed25519_verify(key, message, signature[:32] + above.to_bytes(32, "little"))
    # The neutral element as key and as R, with s = 0, "signs" everything.
    neutral = (1).to_bytes(32, "little")
    yield "key of small order", not ed25519_verify(neutral, b"anything", neutral + bytes(32))

    # The example of C2SP signed-note.
    yield "vkey", parse_vkey("example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k")
    yield "vkey with another id", refuses(
        parse_vkey, "example.com/foo+530d903b+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k")

    leaves = [leaf_hash(b"%d" % number) for number in range(33)]
    for size in range(1, 34):
        root = tree_root(leaves[:size])
        for index in range(size):
            path = tree_path(index, leaves[:size])
            yield f"leaf {index} of {size}", root_of_path(leaves[index], index, size, path) == root
            yield f"leaf {index} of {size}, longer", refuses(root_of_path, leaves[index], index, size, path + [root])
            if path:
                yield f"leaf {index} of {size}, shorter", refuses(root_of_path, leaves[index], index, size, path[1:])
                wrong = path[:-1] + [bytes(32)]
                yield f"leaf {index} of {size}, changed", root_of_path(leaves[index], index, size, wrong) != root
        yield f"index {size} of {size}", refuses(root_of_path, root, size, size, [])
    yield "leaf 0 of 0", refuses(root_of_path, leaves[0], 0, 0, [])

    yield from self_test_files()


def self_test_files():
    """A record, a proof file and a key, whole and spoilt."""
    record = (b'{"v":1,"ts_ms":1730246400000,"writer_id":"svc-gateway@inst-1","seq":1,"stream":"ingress","kind":'
              b'"GetServed","actor":{"anon":true},"subject":{},"reason":"ok","attrs":{},"prev":"b3:0"}')
    finished = record[:-1] + b',"self_hash":"b3:0c1a9dc479041a90fc084e5090d29f743f179a895a73f31181110c02f65ee001"}'
    b64 = lambda data: base64.b64encode(data).decode()
    leaf = leaf_hash(record)
    yield "leaf", leaf.hex() == "e262e0ea719f546d05c6a4613fb6bc0d37ce05075fd994e254b359417c555538"
    leaves = [leaf_hash(b"%d" % number) for number in range(13)]
    leaves[5] = leaf
    origin = "example.com/log"
    text = f"{origin}\n13\n{b64(tree_root(leaves))}\n"
    public_key, signature = ed25519_sign(bytes(range(32)), text.encode())
    key_id = sha256(origin.encode(), b"\n\1", public_key)[:4]
    vkey = f"{origin}+{key_id.hex()}+{b64(bytes([1]) + public_key)}"
    line = f"\u2014 {origin} {b64(key_id + signature)}\n"
    other = "\u2014 example.net/witness AAAAAAECAwQ=\n"
    path = "".join(b64(h) + "\n" for h in tree_path(5, leaves))
    head = "c2sp.org/tlog-proof@v1\n"
    proof = f"{head}index 5\n{path}\n{text}\n{line}"

    def holds(record=record, proof=proof, vkey=vkey, origin=origin):
        return verify(record, proof.encode(), vkey, origin) == (5, 13, tree_root(leaves))

    def fails(**changed):
        return refuses(lambda: holds(**changed))

    yield "canonical record", holds()
    yield "canonical record, line feed", holds(record=record + b"\n")
    yield "finished record", holds(record=finished)
    yield "finished record, line feed", holds(record=finished + b"\n")
    yield "without key and origin", holds(vkey=None, origin=None)
    yield "extra line", holds(proof=proof.replace("index", "extra AAAA\nindex", 1))
    yield "witness line before", holds(proof=proof.replace(line, other + line))
    yield "witness line behind", holds(proof=proof + other)
    yield "two line feeds", fails(record=record + b"\n\n")
    yield "record changed", fails(record=record.replace(b"ok", b"no"))
    yield "white space", fails(record=record.replace(b'"v":1', b'"v": 1'))
    yield "no record", fails(record=b"")
    yield "other index", fails(proof=proof.replace("index 5", "index 4"))
    yield "index with a zero", fails(proof=proof.replace("index 5", "index 05"))
    yield "no index", fails(proof=proof.replace("index 5\n", ""))
    yield "index beyond", fails(proof=proof.replace("index 5", "index 13"))
    yield "huge index", fails(proof=proof.replace("index 5", "index 18446744073709551616"))
    yield "digits of another script", fails(proof=proof.replace("index 5", "index \u0665"))
    # Sizes 13 and 14 give leaf 5 the same path: that the size is 13 is known from the signature alone.
    yield "other size", fails(proof=proof.replace("\n13\n", "\n14\n"))
    yield "other size, nothing signed", fails(proof=proof.replace("\n13\n", "\n17\n"), vkey=None)
    yield "other origin", fails(origin="example.com/other")
    yield "other header", fails(proof=proof.replace("@v1", "@v2"))
    yield "no hashes", fails(proof=proof.replace(path, ""))
    yield "hash without padding", fails(proof=proof.replace("=\n", "\n", 1))
    yield "no signature", fails(proof=proof.replace(line, ""), vkey=None)
    yield "only a witness", fails(proof=proof.replace(line, other))
    yield "signed twice", fails(proof=proof + line)
    yield "last line not ended", fails(proof=proof[:-1])
    yield "extension line", fails(proof=proof.replace(f"\n\n{line}", f"\nmore\n\n{line}"), vkey=None)
    yield "carriage returns", fails(proof=proof.replace("\n", "\r\n"))
    wrong = f"\u2014 {origin} {b64(key_id + signature[:-1] + bytes([signature[-1] ^ 1]))}\n"
    yield "wrong signature", fails(proof=proof.replace(line, wrong))
    yield "cut signature", fails(proof=proof.replace(line, f"\u2014 {origin} {b64(key_id + signature[:-1])}\n"))
    yield "key of a cosigner", fails(vkey=f"{origin}+{key_id.hex()}+{b64(bytes([4]) + public_key)}")
    for at in range(0, len(proof) - len(line) - 1):
        spoilt = proof[:at] + chr(ord(proof[at]) ^ 1) + proof[at + 1:]
        yield f"character {at} of the file changed", fails(proof=spoilt)


def read(path, limit):
    with (sys.stdin.buffer if path == "-" else open(path, "rb")) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise Bad(f"{path} holds more than {limit} bytes")
    return data


def main():
    parser = argparse.ArgumentParser(description="Checks that a record is in a log (standard library only).")
    parser.add_argument("record", nargs="?", help="the record, canonical or finished")
    parser.add_argument("proof", nargs="?", help="the .tlog-proof file")
    parser.add_argument("--key", metavar="VKEY", help="the log's public key, name+id+base64")
    parser.add_argument("--origin", metavar="NAME", help="the name that the log must have")
    parser.add_argument("--self-test", action="store_true", help="test this script and nothing else")
    arguments = parser.parse_args()
    if arguments.self_test:
        results = list(self_test())
        wrong = [name for name, right in results if not right]
        for name in wrong:
            print(f"wrong: {name}", file=sys.stderr)
        print(f"self-test: {len(results)} cases, {len(wrong)} wrong")
        return 1 if wrong else 0
    if arguments.record is None or arguments.proof is None:
        parser.error("RECORD and PROOF are needed")
    try:
        record, proof = read(arguments.record, MAX_RECORD), read(arguments.proof, MAX_PROOF)
        index, size, root = verify(record, proof, arguments.key, arguments.origin)
    except OSError as error:
        print(f"verify_proof: {error}", file=sys.stderr)
        return 1
    except Bad as error:
        print(f"verify_proof: {error}", file=sys.stderr)
        return 3
    print(f"verified index {index} of size {size}, root {base64.b64encode(root).decode()}")
    if arguments.key is None:
        print("verify_proof: no --key was given, so nobody is known to have signed this root", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
