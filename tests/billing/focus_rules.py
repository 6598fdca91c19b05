"""Is a CSV file a FOCUS 1.2 dataset? Rules of the specification's column definitions and attributes, row by row.

Written from https://focus.finops.org/focus-specification/v1-2/, not from what the export does. Where a rule depends on
what a provider supports, the presence of its column says that it does.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from decimal import Decimal

Row = dict[str, str]
"""A row's values by column; an empty one is null."""

MANDATORY = (
    "BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodEnd", "BillingPeriodStart",
    "ChargeCategory", "ChargeClass", "ChargeDescription", "ChargePeriodEnd", "ChargePeriodStart", "ContractedCost",
    "EffectiveCost", "InvoiceIssuerName", "ListCost", "PricingQuantity", "PricingUnit", "ProviderName",
    "PublisherName", "ServiceCategory", "ServiceName",
)
OPTIONAL = (
    "AvailabilityZone", "BillingAccountType", "CapacityReservationId", "CapacityReservationStatus", "ChargeFrequency",
    "CommitmentDiscountCategory", "CommitmentDiscountId", "CommitmentDiscountName", "CommitmentDiscountQuantity",
    "CommitmentDiscountStatus", "CommitmentDiscountType", "CommitmentDiscountUnit", "ConsumedQuantity", "ConsumedUnit",
    "ContractedUnitPrice", "InvoiceId", "ListUnitPrice", "PricingCategory", "PricingCurrency",
    "PricingCurrencyContractedUnitPrice", "PricingCurrencyEffectiveCost", "PricingCurrencyListUnitPrice", "RegionId",
    "RegionName", "ResourceId", "ResourceName", "ResourceType", "ServiceSubcategory", "SkuId", "SkuMeter",
    "SkuPriceDetails", "SkuPriceId", "SubAccountId", "SubAccountName", "SubAccountType", "Tags",
)
NEVER_NULL = (
    "BilledCost", "BillingAccountId", "BillingCurrency", "BillingPeriodEnd", "BillingPeriodStart", "ChargeCategory",
    "ChargePeriodEnd", "ChargePeriodStart", "ContractedCost", "EffectiveCost", "InvoiceIssuerName", "ListCost",
    "ProviderName", "PublisherName", "ServiceCategory", "ServiceName", "ServiceSubcategory", "ChargeFrequency",
    "PricingCurrency", "PricingCurrencyEffectiveCost",
)
NOT_NULL_FOR_USAGE = (
    "ConsumedQuantity", "ConsumedUnit", "ContractedUnitPrice", "ListUnitPrice", "PricingCategory", "PricingQuantity",
    "PricingUnit", "SkuId", "SkuMeter", "SkuPriceId",
)
DECIMALS = (
    "BilledCost", "CommitmentDiscountQuantity", "ConsumedQuantity", "ContractedCost", "ContractedUnitPrice",
    "EffectiveCost", "ListCost", "ListUnitPrice", "PricingCurrencyContractedUnitPrice", "PricingCurrencyEffectiveCost",
    "PricingCurrencyListUnitPrice", "PricingQuantity",
)
UNIT_PRICES = (
    "ContractedUnitPrice", "ListUnitPrice", "PricingCurrencyContractedUnitPrice", "PricingCurrencyListUnitPrice",
)
TIMES = ("BillingPeriodEnd", "BillingPeriodStart", "ChargePeriodEnd", "ChargePeriodStart")
UNITS = ("CommitmentDiscountUnit", "ConsumedUnit", "PricingUnit")
ALLOWED = {
    "ChargeCategory": {"Usage", "Purchase", "Tax", "Credit", "Adjustment"},
    "ChargeClass": {"Correction"},
    "ChargeFrequency": {"One-Time", "Recurring", "Usage-Based"},
    "PricingCategory": {"Standard", "Dynamic", "Committed", "Other"},
    "CommitmentDiscountCategory": {"Spend", "Usage"},
    "CommitmentDiscountStatus": {"Used", "Unused"},
    "CapacityReservationStatus": {"Used", "Unused"},
    "ServiceCategory": {
        "AI and Machine Learning", "Analytics", "Business Applications", "Compute", "Databases", "Developer Tools",
        "Multicloud", "Identity", "Integration", "Internet of Things", "Management and Governance", "Media",
        "Migration", "Mobile", "Networking", "Security", "Storage", "Web", "Other",
    },
}
SUBCATEGORIES = {
    "AI and Machine Learning": {
        "AI Platforms", "Bots", "Generative AI", "Machine Learning", "Natural Language Processing",
        "Other (AI and Machine Learning)",
    },
    "Compute": {
        "Containers", "End User Computing", "Quantum Compute", "Serverless Compute", "Virtual Machines",
        "Other (Compute)",
    },
}
"""Of the two categories that a serverless GPU can be in."""
TOGETHER = (
    ("RegionId", "RegionName"), ("SubAccountId", "SubAccountName"), ("SubAccountId", "SubAccountType"),
    ("ResourceId", "ResourceType"), ("PricingQuantity", "PricingUnit"), ("ConsumedQuantity", "ConsumedUnit"),
    ("CommitmentDiscountId", "CommitmentDiscountCategory"), ("CommitmentDiscountId", "CommitmentDiscountType"),
    ("CapacityReservationId", "CapacityReservationStatus"),
)
"""Null in the one where and only where it is null in the other."""
NULL_WITHOUT = (
    ("CommitmentDiscountName", "CommitmentDiscountId"), ("CommitmentDiscountQuantity", "CommitmentDiscountId"),
    ("CommitmentDiscountStatus", "CommitmentDiscountId"), ("CommitmentDiscountUnit", "CommitmentDiscountId"),
    ("ResourceName", "ResourceId"), ("SkuPriceDetails", "SkuPriceId"), ("BillingAccountType", "BillingAccountId"),
)
"""The first is null where the second is."""
PRODUCTS = (
    ("ListUnitPrice", "PricingQuantity", "ListCost"), ("ContractedUnitPrice", "PricingQuantity", "ContractedCost"),
)
DEFINED_DETAILS = {
    "CoreCount": int, "DiskMaxIops": float, "DiskSpace": float, "DiskType": str, "GpuCount": int, "InstanceType": str,
    "InstanceSeries": str, "MemorySize": float, "NetworkMaxIops": float, "NetworkMaxThroughput": float,
    "OperatingSystem": str, "Redundancy": str, "StorageClass": str,
}
PLACEHOLDERS = {"n/a", "na", "null", "none", "not applicable", "unknown", "-", "nan"}

_NUMBER = re.compile(r"-?\d+(\.\d+)?")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_TIME_UNITS = "Years?|Months?|Days?|Hours?|Minutes?|Seconds?|Milliseconds?|Microseconds?"
_BASE = rf"(?:[KMGTPE]i?[bB]|[bB]|{_TIME_UNITS}|[A-Z][A-Za-z]*)"
_UNIT = re.compile(rf"(?:[1-9]\d* )?{_BASE}(?:-{_BASE})?(?:/(?:[1-9]\d* )?{_BASE})?")


def violations(lines: Iterable[str]) -> list[str]:
    """What breaks a rule, as `row 3: ListCost ...`; rows count from 1, the header is row 0."""
    reader = csv.reader(lines, strict=True)
    header = next(reader, [])
    found = [f"row 0: {fault}" for fault in _header(header)]
    prices: dict[str, str] = {}
    for number, values in enumerate(reader, 1):
        if len(values) != len(header):
            found.append(f"row {number}: {len(values)} values for {len(header)} columns")
            continue
        row = dict(zip(header, values, strict=True))
        found += [f"row {number}: {fault}" for fault in (*_formats(row), *_rules(row), *_one_sku(row, prices))]
    return found


def _header(header: list[str]) -> Iterator[str]:
    yield from (f"{column} is missing" for column in MANDATORY if column not in header)
    yield from (f"{column} is there twice" for column in set(header) if header.count(column) > 1)
    own = [column for column in header if column not in MANDATORY + OPTIONAL]
    yield from (f"{column} is no FOCUS column and has no x_" for column in own if not column.startswith("x_"))
    if own and own != header[-len(own) :]:
        yield "columns of one's own stand among those of FOCUS"


def _formats(row: Row) -> Iterator[str]:
    """Each value by itself."""
    for column, value in row.items():
        if value == "":
            if column in NEVER_NULL:
                yield f"{column} is null"
        elif fault := _format(column, value):
            yield f"{column} is {value!r}: {fault}"


def _format(column: str, value: str) -> str | None:
    if column in DECIMALS and not _NUMBER.fullmatch(value):
        return "no plain number"
    if column in UNIT_PRICES and value.startswith("-"):
        return "negative"
    if column in TIMES and not _is_time(value):
        return "no YYYY-MM-DDTHH:mm:ssZ"
    if column in UNITS and not _UNIT.fullmatch(value):
        return "no unit"
    if column in ("BillingCurrency", "PricingCurrency") and not re.fullmatch("[A-Z]{3}", value):
        return "no currency of ISO 4217"
    if value not in ALLOWED.get(column, {value}):
        return "not an allowed value"
    if column in ("Tags", "SkuPriceDetails"):
        return _key_value(column, value)
    if column in MANDATORY + OPTIONAL and (not value.strip() or value.strip().lower() in PLACEHOLDERS):
        return "a placeholder for null"
    return None


def _is_time(value: str) -> bool:
    try:
        return _TIME.fullmatch(value) is not None and bool(datetime.fromisoformat(value))
    except ValueError:
        return False


def _key_value(column: str, value: str) -> str | None:
    try:
        pairs = json.loads(value, object_pairs_hook=list)
    except ValueError:
        return "no JSON"
    if not isinstance(pairs, list) or not all(isinstance(pair, tuple) for pair in pairs):
        return "no JSON object"
    keys = [key for key, _ in pairs]
    if len(set(keys)) < len(keys):
        return "a key stands twice"
    if any(isinstance(part, list | dict) for _, part in pairs):
        return "a value is no number, string, boolean or null"
    return _details(dict(pairs)) if column == "SkuPriceDetails" else None


def _details(details: dict[str, object]) -> str | None:
    for key, value in details.items():
        kind = DEFINED_DETAILS.get(key)
        if kind is None and not re.fullmatch(r"x_[A-Z][A-Za-z0-9]*", key):
            return f"{key} is neither defined by FOCUS nor an x_ name"
        wanted = (int, float) if kind is float else kind
        if wanted is not None and (isinstance(value, bool) or not isinstance(value, wanted)):
            return f"{key} is of the wrong type"
    return None


def _rules(row: Row) -> Iterator[str]:
    """Values against each other."""
    yield from _nulls(row)
    yield from _periods(row)
    yield from _products(row)
    if row.get("ResourceName") and row["ResourceName"] == row.get("ResourceId"):
        yield "ResourceName repeats ResourceId"
    allowed = SUBCATEGORIES.get(row.get("ServiceCategory", ""))
    if row.get("ServiceSubcategory") and allowed and row["ServiceSubcategory"] not in allowed:
        yield "ServiceSubcategory is of another ServiceCategory"
    if row.get("ChargeFrequency") == "Usage-Based" and row.get("ChargeCategory") == "Purchase":
        yield "ChargeFrequency of a purchase is Usage-Based"


def _nulls(row: Row) -> Iterator[str]:
    usage = row.get("ChargeCategory") in ("Usage", "Purchase") and row.get("ChargeClass") != "Correction"
    if usage:
        yield from (f"{column} is null" for column in NOT_NULL_FOR_USAGE if row.get(column) == "")
    for one, other in TOGETHER:
        if one in row and other in row and bool(row[one]) != bool(row[other]):
            yield f"of {one} and {other} one alone is null"
    yield from (f"{one} stands without {other}" for one, other in NULL_WITHOUT if row.get(one) and row.get(other) == "")
    if row.get("ChargeCategory") == "Usage" and row.get("CommitmentDiscountId") and not row["CommitmentDiscountStatus"]:
        yield "CommitmentDiscountStatus is null"
    if row.get("PricingCategory") == "Committed" and not row.get("CommitmentDiscountId"):
        yield "PricingCategory is Committed without a commitment discount"
    if row.get("CommitmentDiscountStatus") == "Unused" and row.get("ConsumedQuantity"):
        yield "ConsumedQuantity of what was not used"


def _periods(row: Row) -> Iterator[str]:
    moments = {column: datetime.fromisoformat(row[column]) for column in TIMES if _is_time(row.get(column, ""))}
    if len(moments) < len(TIMES):
        return
    start, end = moments["ChargePeriodStart"], moments["ChargePeriodEnd"]
    month, next_month = moments["BillingPeriodStart"], moments["BillingPeriodEnd"]
    if end <= start:
        yield "ChargePeriodEnd is not after its start"
    if month != month.replace(day=1, hour=0, minute=0, second=0) or (next_month - month).days not in range(28, 32):
        yield "BillingPeriodStart and its end are no calendar month"
    if next_month.day != 1:
        yield "BillingPeriodEnd is not the next month's beginning"
    if start < month or end > next_month:
        yield "the charge period reaches out of the billing period"


def _products(row: Row) -> Iterator[str]:
    numbers = {name: Decimal(row[name]) for name in DECIMALS if _NUMBER.fullmatch(row.get(name, ""))}
    if row.get("ChargeClass") != "Correction":
        for price, quantity, cost in PRODUCTS:
            if {price, quantity, cost} <= numbers.keys() and numbers[price] * numbers[quantity] != numbers[cost]:
                yield f"{price} x {quantity} is not {cost}"
    if numbers.get("ConsumedQuantity", 1) <= 0:
        yield "ConsumedQuantity is not positive"
    if row.get("PricingCurrency") == row.get("BillingCurrency"):
        for column in ("ContractedUnitPrice", "EffectiveCost", "ListUnitPrice"):
            twin = f"PricingCurrency{column}"
            if column in numbers and twin in numbers and numbers[column] != numbers[twin]:
                yield f"{twin} differs from {column} in the same currency"


def _one_sku(row: Row, prices: dict[str, str]) -> Iterator[str]:
    price, sku = row.get("SkuPriceId"), row.get("SkuId", "")
    if price and prices.setdefault(price, sku) != sku:
        yield "SkuPriceId has two SkuIds"
