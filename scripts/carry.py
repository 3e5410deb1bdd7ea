#!/usr/bin/env python3
"""A program without the assets that it embeds, for a narrow way to another machine that has this repository too.

  scripts/carry.py pack target/release/eqdiff target/eqdiff.xz      here
  scripts/carry.py unpack target/eqdiff.xz target/release/eqdiff    there

What is embedded is found by its bytes, zeroed, and put back from the files of the same commit."""
import hashlib
import json
import lzma
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
LEAST = 4096  # bytes of a file that is worth leaving out


def pack(program, packed):
    data = bytearray(program.read_bytes())
    digest, places = hashlib.sha256(data).hexdigest(), []
    for path in sorted(path for path in (ROOT / "assets").rglob("*") if path.is_file()):
        content = path.read_bytes()
        at = data.find(content) if len(content) >= LEAST else -1
        while at >= 0:
            data[at : at + len(content)] = bytes(len(content))
            places.append([at, str(path.relative_to(ROOT))])
            at = data.find(content, at + len(content))
    head = json.dumps({"digest": digest, "places": places}).encode()
    packed.write_bytes(lzma.compress(len(head).to_bytes(8, "little") + head + data))
    print(f"{packed}: {packed.stat().st_size / 2**20:.1f} MiB, {len(places)} places to fill in")


def unpack(packed, program):
    raw = lzma.decompress(packed.read_bytes())
    size = 8 + int.from_bytes(raw[:8], "little")
    head, data = json.loads(raw[8:size]), bytearray(raw[size:])
    for at, path in head["places"]:
        content = (ROOT / path).read_bytes()
        data[at : at + len(content)] = content
    if hashlib.sha256(data).hexdigest() != head["digest"]:
        sys.exit(f"{program} is not what was packed: the assets here are those of another commit")
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_bytes(data)
    program.chmod(0o755)


if __name__ == "__main__":
    if len(sys.argv) != 4 or sys.argv[1] not in ("pack", "unpack"):
        sys.exit(__doc__)
    {"pack": pack, "unpack": unpack}[sys.argv[1]](pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]))
