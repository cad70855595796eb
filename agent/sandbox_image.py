"""The image of network sandboxes: a program that only sleeps, made here, as no other is sure to be there. Pure."""

import io
import struct
import tarfile

REPOSITORY, TAG = "workload-runner-sandbox", "1"
NAME = f"{REPOSITORY}:{TAG}"
COMMAND = ["/pause"]

_ADDRESS = 0x400000
_X86_64, _AARCH64 = 62, 183
"""The machines' numbers in ELF."""

_PROGRAMS = {
    "amd64": (
        _X86_64,
        bytes.fromhex(
            "b822000000"  # mov eax, 34: pause
            "0f05"  # syscall
            "ebf7"  # jmp to the beginning
        ),
    ),
    "arm64": (
        _AARCH64,
        struct.pack(
            "<8I",
            0xD2800000,  # mov x0, 0
            0xD2800001,  # mov x1, 0
            0xD2800002,  # mov x2, 0
            0xD2800003,  # mov x3, 0
            0xD2800004,  # mov x4, 0
            0xD2800928,  # mov x8, 73: ppoll, of no file and without a time-out
            0xD4000001,  # svc 0
            0x17FFFFF9,  # b to the beginning
        ),
    ),
}


def architectures() -> list[str]:
    """As the engine names them."""
    return list(_PROGRAMS)


def archive(architecture: str) -> bytes:
    """The image's file system as a tar archive. Raises KeyError for an architecture it is not written for."""
    program = _elf(*_PROGRAMS[architecture])
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo("pause")
        entry.size, entry.mode = len(program), 0o755
        tar.addfile(entry, io.BytesIO(program))
    return buffer.getvalue()


def _elf(machine: int, code: bytes) -> bytes:
    """A static program for 64-bit Linux: header, one segment that is all of the file, code."""
    header_size, segment_size = 64, 56
    size = header_size + segment_size + len(code)
    identity = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    entry = _ADDRESS + header_size + segment_size
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", identity, 2, machine, 1, entry, header_size, 0, 0, header_size, segment_size, 1, 0, 0, 0
    )
    readable_executable = 5
    segment = struct.pack("<IIQQQQQQ", 1, readable_executable, 0, _ADDRESS, _ADDRESS, size, size, 0x10000)
    return header + segment + code
