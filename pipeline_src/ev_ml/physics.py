"""The battery's physics, vectorised over sessions: open-circuit voltage, resistance, RC pair, heat.

One-RC Thevenin cell and lumped thermal mass: V = OCV(soc) - I R0 - V_rc; C dT/dt = I^2 R + Q - hA (T - T_ambient)
(Plett, Battery Management Systems, vol. 1, ch. 2). Arrays are (sessions, samples); current is positive in discharge.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

CELLS = 96
"""Cells in series."""
REFERENCE_C = 25.0
ACTIVATION_K = 2400.0
"""Arrhenius slope of the resistance over 1/T, kelvin: about 2x at 0 degC."""
RC_SECONDS = 180.0
HEAT_CAPACITY_J_PER_K = 900.0 * CELLS * 1.2
"""A 1.2 kg cell of 900 J/(kg K) (typical of NMC pouch cells)."""
COOLING_W_PER_K = 55.0

_SOC = np.array([0, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100], dtype=np.float64)
OCV_CURVES = {
    "nmc": np.array([3.00, 3.35, 3.45, 3.55, 3.60, 3.64, 3.69, 3.77, 3.87, 3.97, 4.07, 4.18]),
    # another supplier's cell: flatter in the middle and lower at the top
    "nmc_b": np.array([2.95, 3.28, 3.40, 3.50, 3.55, 3.58, 3.62, 3.68, 3.76, 3.87, 3.98, 4.10]),
}
"""Volts of a rested cell over state of charge in percent, by chemistry."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A supplier's cell."""

    chemistry: str
    capacity_ah: float
    r0_ohm: float
    r1_ohm: float


CELL_TYPES = {
    "supplier_a": Cell("nmc", 60.0, 0.0011, 0.0007),
    "supplier_b": Cell("nmc_b", 66.0, 0.0015, 0.0009),
}


def open_circuit_voltage(chemistry: str, soc_pct: Floats) -> Floats:
    """Return volts per cell at a state of charge in percent (clipped to the curve's ends)."""
    volts: Floats = np.interp(soc_pct, _SOC, OCV_CURVES[chemistry])
    return volts


def resistance_factor(temperature_c: Floats) -> Floats:
    """Return the factor on a resistance given at 25 degC (Arrhenius)."""
    kelvin = temperature_c + 273.15
    factor: Floats = np.exp(ACTIVATION_K * (1.0 / kelvin - 1.0 / (REFERENCE_C + 273.15)))
    return factor


def rc_voltage(current_a: Floats, r1_ohm: Floats, step_s: float) -> Floats:
    """Return the RC pair's voltage (sessions, samples) from rest, by exact discretisation."""
    decay = float(np.exp(-step_s / RC_SECONDS))
    out = np.zeros_like(current_a)
    for k in range(1, current_a.shape[1]):
        out[:, k] = decay * out[:, k - 1] + (1.0 - decay) * current_a[:, k - 1] * r1_ohm[:, k - 1]
    return out


def pack_temperature(current_a: Floats, r_ohm: Floats, extra_w: Floats, ambient_c: Floats, step_s: float) -> Floats:
    """Return degC of the pack's lumped mass (sessions, samples), starting near ambient."""
    out = np.empty_like(current_a)
    out[:, 0] = ambient_c[:, 0] + 1.0
    gain = step_s / HEAT_CAPACITY_J_PER_K
    for k in range(1, current_a.shape[1]):
        heat = CELLS * current_a[:, k - 1] ** 2 * r_ohm + extra_w
        out[:, k] = out[:, k - 1] + gain * (heat - COOLING_W_PER_K * (out[:, k - 1] - ambient_c[:, k - 1]))
    return out
