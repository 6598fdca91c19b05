"""The columns of an export in FOCUS, the FinOps Open Cost and Usage Specification, version 1.2."""

from __future__ import annotations

from typing import Final

FOCUS_COLUMNS: Final = (
    "AvailabilityZone", "BilledCost", "BillingAccountId", "BillingAccountName", "BillingAccountType", "BillingCurrency",
    "BillingPeriodEnd", "BillingPeriodStart", "CapacityReservationId", "CapacityReservationStatus", "ChargeCategory",
    "ChargeClass", "ChargeDescription", "ChargeFrequency", "ChargePeriodEnd", "ChargePeriodStart",
    "CommitmentDiscountCategory", "CommitmentDiscountId", "CommitmentDiscountName", "CommitmentDiscountQuantity",
    "CommitmentDiscountStatus", "CommitmentDiscountType", "CommitmentDiscountUnit", "ConsumedQuantity", "ConsumedUnit",
    "ContractedCost", "ContractedUnitPrice", "EffectiveCost", "InvoiceId", "InvoiceIssuerName", "ListCost",
    "ListUnitPrice", "PricingCategory", "PricingCurrency", "PricingCurrencyContractedUnitPrice",
    "PricingCurrencyEffectiveCost", "PricingCurrencyListUnitPrice", "PricingQuantity", "PricingUnit", "ProviderName",
    "PublisherName", "RegionId", "RegionName", "ResourceId", "ResourceName", "ResourceType", "ServiceCategory",
    "ServiceName", "ServiceSubcategory", "SkuId", "SkuMeter", "SkuPriceDetails", "SkuPriceId", "SubAccountId",
    "SubAccountName", "SubAccountType", "Tags",
)
"""All 57 of version 1.2, in the order of the alphabet."""

OWN_COLUMNS: Final = (
    "x_BootId", "x_CachedTokens", "x_CompletionTokens", "x_Epoch", "x_FinishReason", "x_FirstTokenMilliseconds",
    "x_JobId", "x_Milliseconds", "x_Phase", "x_PriceDate", "x_PromptTokens", "x_QueueMilliseconds", "x_RecordId",
    "x_RequestId", "x_Sequence", "x_StartKind", "x_StartTime", "x_Warmup",
)
"""What the specification has no column for."""

COLUMNS: Final = FOCUS_COLUMNS + OWN_COLUMNS

CONSTANTS: Final = {
    "BillingCurrency": "USD",
    "ChargeCategory": "Usage",
    "ChargeFrequency": "Usage-Based",
    "ConsumedUnit": "Seconds",
    "InvoiceIssuerName": "RunPod",
    "PricingCategory": "Standard",
    "PricingCurrency": "USD",
    "PricingUnit": "Seconds",
    "ProviderName": "RunPod",
    "PublisherName": "RunPod",
    "ResourceType": "Serverless GPU worker",
    "ServiceCategory": "AI and Machine Learning",
    "ServiceName": "RunPod Serverless",
    "ServiceSubcategory": "Generative AI",
    "SkuMeter": "GPU worker seconds",
    "SubAccountType": "Serverless endpoint",
}
"""What every row says alike."""
