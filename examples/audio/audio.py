"""A tone in blocks of 64 stereo frames, and its spectrum in another process."""

import argparse
import multiprocessing

import numpy as np

import ipcheap

RATE = 48_000  # frames a second
PERIOD = 64  # frames that a sound card asks for at a time
SIZE = 1024  # frames in a spectrum
FRAME = ("f4", (2,))


def play(heap: ipcheap.Heap, pitch: float, seconds: float) -> None:
    """Compute a tone in place, as the callback of a sound card would."""
    with heap, heap.stream_writer("sound", 10, dtype=FRAME) as writer:
        for first in range(0, int(RATE * seconds), PERIOD):
            angle = 2 * np.pi * pitch / RATE * np.arange(first, first + PERIOD)
            with writer.window(PERIOD) as period:
                np.sin(angle, out=period[:, 0], casting="same_kind")
                period[:, 1] = period[:, 0] / 2


def analyse(heap: ipcheap.Heap) -> tuple[int, float]:
    """Return the number of spectra and the loudest frequency, with an overlap of 50 %."""
    total, count = np.zeros(SIZE // 2 + 1), 0
    shape = np.hanning(SIZE)
    with heap.stream_reader("sound", 10, dtype=FRAME) as reader:
        for block in reader.blocks(SIZE, hop=SIZE // 2, fill=0):
            total += np.abs(np.fft.rfft(block[:, 0] * shape))
            count += 1
    return count, float(total.argmax()) * RATE / SIZE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pitch", type=float, default=3000.0, help="Hz")
    parser.add_argument("--seconds", type=float, default=2.0, help="how much is played")
    options = parser.parse_args()
    with ipcheap.Heap.create(None, "4MiB", shm="memfd") as heap:
        heap.add_stream("sound", 4 * SIZE, dtype=FRAME)
        player = multiprocessing.get_context("spawn").Process(
            target=play, args=(heap, options.pitch, options.seconds)
        )
        player.start()
        count, pitch = analyse(heap)
        player.join()
    print(f"{count} spectra, the loudest frequency is {pitch:.0f} Hz")


if __name__ == "__main__":
    main()
