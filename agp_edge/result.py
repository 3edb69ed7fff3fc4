"""What the line gets for one frame, and how to look at it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from agp_edge.dependencies import require
from agp_edge.errors import Error, FrameError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from agp_edge import _core

__all__ = ["Latency", "Region", "Result", "result_of"]

CONTOUR_BGR = (255, 255, 255)


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Where the time of one frame went: milliseconds of the steady clock.

    With `device_times` of a detector on a GPU the parts there are the GPU's own, by CUDA events;
    starting them, and waking up after them, is in none of the parts.
    """

    wait_ms: float = 0.0
    """For room among the frames in flight and for other frames' turn."""

    copy_ms: float | None = None
    """The frame into the GPU's memory, by the CPU and by the GPU; None without `device_times`."""

    preprocess_ms: float
    """Region of interest, resize, colour, normalise."""

    execute_ms: float
    """The engine."""

    postprocess_ms: float
    """Upsample, blur, score, mask, regions."""

    copy_back_ms: float | None = None
    """The result from there; None without `device_times`."""

    total_ms: float
    """From the frame's entry to the result, the wait included."""


@dataclass(frozen=True, kw_only=True)
class Region:
    """One 8-connected part of the mask."""

    box: tuple[int, int, int, int]
    """x, y, width, height in frame pixels; right and bottom edges are exclusive."""

    area: int
    """Pixels of the anomaly map that belong to it."""

    frame_area: float
    """The same area in frame pixels."""

    peak: float
    """Largest value of the anomaly map inside: raw, larger is more anomalous."""

    peak_position: tuple[int, int]
    """x, y of that value in frame pixels."""

    area_mm2: float | None = None
    """The same area in square millimetres; None where the site file says no `mm_per_pixel`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """The verdict on one frame."""

    score: float
    """Raw image score, never squeezed or clipped; larger is more anomalous."""

    is_anomalous: bool
    """score > threshold."""

    threshold: float
    """The decision threshold that was used."""

    mask_threshold: float
    """A map pixel is in the mask when its value is larger."""

    p_value: float | None
    """Share of good parts that score at least as high, (0, 1]; None without a calibration tail.

    See `agp_edge.manifest.CalibrationTail.p_value`.
    """

    anomaly_map: NDArray[np.float32] | None
    """float32 (map height, map width), raw, covers `roi`; None if it was not asked for."""

    mask: NDArray[np.bool_] | None
    """bool, of the map's shape; None if it was not asked for."""

    regions: tuple[Region, ...]
    """Parts of the mask, largest peak first; empty if they were not asked for."""

    roi: tuple[int, int, int, int]
    """x, y, width, height of the part of the frame that was looked at, frame pixels."""

    latency: Latency
    """Where the time went."""

    def __repr__(self) -> str:
        def shape(array: NDArray[Any] | None) -> str:
            return "None" if array is None else f"<{array.dtype} {array.shape}>"

        return (
            f"Result(score={self.score:.6g}, is_anomalous={self.is_anomalous}, "
            f"threshold={self.threshold:.6g}, p_value={self.p_value}, "
            f"anomaly_map={shape(self.anomaly_map)}, mask={shape(self.mask)}, "
            f"regions={len(self.regions)}, roi={self.roi}, total_ms={self.latency.total_ms:.3f})"
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything but the pixels, ready for `json.dumps`."""
        return {
            "score": self.score,
            "is_anomalous": self.is_anomalous,
            "threshold": self.threshold,
            "mask_threshold": self.mask_threshold,
            "p_value": self.p_value,
            "regions": [asdict(region) for region in self.regions],
            "roi": list(self.roi),
            "latency": asdict(self.latency),
        }

    def overlay(
        self, frame: NDArray[np.uint8], *, format: str | None = None, alpha: float = 0.6
    ) -> NDArray[np.uint8]:
        """The heat map and the mask's contours over the frame.

        The scale hangs on the mask threshold, not on this image's own extremes, so a good part
        stays clear: colours begin at half the threshold and are full at twice the threshold.

        Args:
            frame: the frame that was scored: uint8 (H, W, 3), or (H, W) mono.
            format: "bgr8", "rgb8" or "mono8"; None: BGR for three channels, mono for none.
            alpha: opacity of the heat map where it is strongest, 0 to 1.

        Returns:
            uint8 (H, W, 3), BGR, of the frame's size.

        Raises:
            Error: the result has no anomaly map.
            FrameError: the frame is not the one that was scored.
            DependencyError: OpenCV is not installed.
        """
        if self.anomaly_map is None:
            raise Error(
                "this result has no anomaly map to draw: "
                "open the detector with 'map' among its outputs"
            )
        cv2 = require("cv2", extra="images")
        image = _bgr_copy(frame, format)
        x, y, width, height = self.roi
        if y + height > image.shape[0] or x + width > image.shape[1]:
            raise FrameError(
                f"a frame of {image.shape[1]}x{image.shape[0]} pixels cannot be the one of this "
                f"result, whose region of interest is {self.roi}: pass the frame that was scored"
            )
        view = image[y : y + height, x : x + width]

        heat = _heat(self.anomaly_map, self.mask_threshold)
        heat = cv2.resize(heat, (width, height), interpolation=cv2.INTER_LINEAR)
        colours = cv2.applyColorMap((heat * 255).astype(np.uint8), cv2.COLORMAP_TURBO)
        # Clear up to a quarter of the scale (half the threshold), then rising to the threshold.
        opacity = alpha * np.clip((heat - 0.25) / 0.25, 0, 1)[:, :, None]
        view[:] = np.rint(view * (1 - opacity) + colours * opacity).astype(np.uint8)

        if self.mask is not None:
            mask = cv2.resize(
                self.mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST
            )
            contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            thickness = max(1, min(width, height) // 256)
            canvas = np.ascontiguousarray(view)
            cv2.drawContours(canvas, contours, -1, CONTOUR_BGR, thickness)
            view[:] = canvas
        return image


def result_of(
    native: _core.NativeResult, mask_threshold: float, mm_per_pixel: float | None
) -> Result:
    """What C++ found, as users get it; the map and the mask are not copied.

    Args:
        native: of one frame.
        mask_threshold: of its detector.
        mm_per_pixel: millimetres of a frame pixel, of the site file; None: not known.
    """
    latency = native.latency  # once: each access makes an object
    return Result(
        score=native.score,
        is_anomalous=native.is_anomalous,
        threshold=native.threshold,
        mask_threshold=mask_threshold,
        p_value=native.p_value,
        anomaly_map=native.anomaly_map,
        mask=native.mask,
        regions=tuple(
            Region(
                box=region.box,
                area=region.area,
                frame_area=region.frame_area,
                peak=region.peak,
                peak_position=region.peak_position,
                area_mm2=None if mm_per_pixel is None else region.frame_area * mm_per_pixel**2,
            )
            for region in native.regions
        ),
        roi=native.view,
        latency=Latency(
            wait_ms=latency.wait_ms,
            copy_ms=latency.copy_ms,
            copy_back_ms=latency.copy_back_ms,
            preprocess_ms=latency.preprocess_ms,
            execute_ms=latency.execute_ms,
            postprocess_ms=latency.postprocess_ms,
            total_ms=latency.total_ms,
        ),
    )


def _heat(anomaly_map: NDArray[np.float32], threshold: float) -> NDArray[np.float32]:
    """The map on a scale of 0 to 1 with the threshold at one half: float32, the map's shape."""
    if not math.isfinite(threshold):  # a line that was told to pass or to stop everything
        return (anomaly_map > threshold).astype(np.float32)
    span = 2 * abs(threshold) or 1.0
    heat: NDArray[np.float32] = np.clip((anomaly_map - threshold) / span + 0.5, 0, 1)
    return heat.astype(np.float32, copy=False)


def _bgr_copy(frame: NDArray[np.uint8], format: str | None) -> NDArray[np.uint8]:
    pixels = np.asarray(frame)
    if pixels.dtype != np.uint8 or not (
        pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)
    ):
        raise FrameError(
            f"the frame is {pixels.dtype} of shape {pixels.shape}, expected uint8 (H, W, 3) or "
            "(H, W): pass the frame that was scored"
        )
    if pixels.ndim == 2:
        return np.repeat(pixels[:, :, None], 3, axis=2)
    return np.array(pixels[:, :, ::-1] if format == "rgb8" else pixels, order="C")
