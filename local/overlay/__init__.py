"""The seeded identity overlay: made identities around the real contacts and answers of the shipped campaign.

No public data set holds car owners with their identities, so the demo makes them; README.md says what is real and what is made.

    overlay = Overlay(persons=33_095, seed=7)            # or Overlay(1_000, 7, OverlayRates().doubled())
    for source in overlay.sources:                        # call_center, app, wechat:wx…, dealer:D001 …
        for record in overlay.records(source): ...        # dicts in the shape of POST /v1/records
    for event in overlay.past_events(): ...               # Offer Answered, real answers, to the source call_center
    for source in overlay.event_sources:                  # app, wechat:wx…
        for event in overlay.behaviour_events(source): ...  # Segment track calls, made, predict nothing
    truth = overlay.truth
    truth.records(source)     # (record_id, person) of each record, in order
    truth.persons()           # PersonTruth: side, real answer, name and every good key a receiver may meet
    truth.vehicles()          # VehicleTruth: vin, plate, owner, drivers
    truth.staff_phones        # dealer source -> phones of its advisors
    truth.past, truth.answers # numpy columns over persons
    truth.json_chunks()       # all of it as JSON, in pieces

Persons are the numbers 0..n-1. All methods may be called again and give the same again. Drawing keeps columns in memory
(about 1.5 kB a person), writing streams. `python -m local.overlay --help` writes files.
"""

from local.overlay.overlay import Overlay
from local.overlay.plan import WECHAT_APPID
from local.overlay.rates import OverlayRates
from local.overlay.times import CAMPAIGN_START, NOW
from local.overlay.truth import PersonTruth, Truth, VehicleTruth, e164

__all__ = ["CAMPAIGN_START", "NOW", "WECHAT_APPID", "Overlay", "OverlayRates", "PersonTruth", "Truth", "VehicleTruth", "e164"]
