"""Plate cameras and terminals as they write on the wire (CONVENTIONS 5.1, 5.2): posts of several firmwares, pictures and all.

`python -m tests.emulators.cameras URL --plate 京A12345 --dialect hikvision_xml` posts one and prints what came back.
"""

from __future__ import annotations

import argparse
import base64
import json
import urllib.request
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from urllib.parse import quote

# Begins and ends as a JPEG does, and has something in it that no log, table or event may hold.
PICTURE = b"\xff\xd8\xff\xe0" + b"PICTURE-OF-SOMEBODY" * 4000 + b"\xff\xd9"
XML = """<?xml version="1.0" encoding="{encoding}"?>
<EventNotificationAlert version="2.0"{namespace}>
 <ipAddress>192.0.2.9</ipAddress><macAddress>44:47:cc:00:00:01</macAddress><channelID>1</channelID>
 <dateTime>{time}</dateTime><activePostCount>{count}</activePostCount><eventType>{kind}</eventType>
 <eventState>{state}</eventState><eventDescription>ANPR</eventDescription><deviceID>88</deviceID>
 <ANPR><licensePlate>{plate}</licensePlate><originalLicensePlate/><line>1</line><direction>{direction}</direction>
  <confidenceLevel>{confidence}</confidenceLevel><plateType>92TypeCivil</plateType><plateColor>blue</plateColor>
  <plateCharBelieve>99,99,99,98,99,99,97</plateCharBelieve><vehicleType>SUVMPV</vehicleType>
  <pilotsafebelt>no</pilotsafebelt><uphone>yes</uphone><smoking>yes</smoking><listType>temporary</listType>
  <faceInfo><age>41</age><gender>female</gender></faceInfo><pictureInfoList/></ANPR>
 <UUID>{uuid}</UUID><picNum>2</picNum><deviceUUID>DS-TCG405-E 2022</deviceUUID></EventNotificationAlert>"""


@dataclass(frozen=True)
class Post:
    """What goes to a door: below its address, with this query."""

    body: bytes = field(repr=False)
    content_type: str
    path: str = ""
    query: str = ""
    # What the device must find in the answer; empty when it looks at the status alone.
    wants: str = ""


@dataclass(frozen=True)
class Shot:
    """What a camera saw."""

    plate: str = "京A12345"
    confidence: float = 98
    direction: str = "forward"
    state: str = "active"
    kind: str = "ANPR"
    count: int = 1
    uuid: str = ""
    at: datetime | None = None

    @property
    def time(self) -> datetime:
        return self.at or datetime.now(timezone(timedelta(hours=8)))


def xml(shot: Shot, encoding: str = "UTF-8", namespace: bool = True) -> bytes:
    return XML.format(
        encoding=encoding,
        namespace=' xmlns="http://www.isapi.org/ver20/XMLSchema"' if namespace else "",
        time=shot.time.isoformat(timespec="milliseconds"),
        count=shot.count,
        kind=shot.kind,
        state=shot.state,
        plate=shot.plate,
        direction=shot.direction,
        confidence=shot.confidence,
        uuid=shot.uuid,
    ).encode(encoding)


def parts(*given: tuple[str, str, bytes], boundary: str, dashes: str = "--", end: str = "\r\n", closed: bool = True) -> bytes:
    """multipart/form-data of (headers' name and file, type, content)."""
    lines = b""
    for disposition, kind, content in given:
        head = f"{dashes}{boundary}{end}Content-Disposition: form-data; {disposition}{end}"
        head += f"Content-Type: {kind}{end}Content-Length: {len(content)}{end}{end}"
        lines += head.encode() + content + end.encode()
    return lines + (f"{dashes}{boundary}--{end}".encode() if closed else b"")


def hikvision_xml(shot: Shot) -> Post:
    body = parts(
        ('name="anpr.xml"; filename="anpr.xml"', "text/xml", xml(shot)),
        ('name="licensePlatePicture.jpg"; filename="licensePlatePicture.jpg"', "image/jpeg", PICTURE),
        ('name="detectionPicture.jpg"; filename="detectionPicture.jpg"', "image/jpeg", PICTURE),
        boundary="7e13971310878",
    )
    return Post(body, "multipart/form-data; boundary=7e13971310878")


def hikvision_picture_first(shot: Shot) -> Post:
    """Pictures before the text, one of them empty; a boundary of dashes, not quoted; no namespace; LF alone."""
    boundary = "----------------------------aee9ba9b6b6d"
    body = parts(
        ('name="detectionPicture.jpg"; filename="detectionPicture.jpg"', "image/pjpeg", PICTURE),
        ('name="vehiclePicture"; filename="vehiclePicture.jpg"', "image/pjpeg", b""),
        ('name="xml_file"; filename="anpr.xml"', "application/octet-stream", xml(shot, namespace=False)),
        boundary=boundary,
        end="\n",
        closed=False,
    )
    return Post(body, f"multipart/form-data; boundary={boundary}")


def hikvision_bare_boundary(shot: Shot) -> Post:
    """The two dashes before the boundary forgotten; the text in GB 2312."""
    body = parts(
        ('name="xml_file"; filename="anpr.xml"', "application/xml", xml(shot, "gb2312")),
        ('name="featurePicture.jpg"; filename="featurePicture.jpg"', "image/jpeg", PICTURE),
        boundary="boundary",
        dashes="",
    )
    return Post(body, 'multipart/form-data; boundary="boundary"')


def hikvision_plain_xml(shot: Shot) -> Post:
    return Post(xml(shot), "application/xml; charset=UTF-8")


def hikvision_json(shot: Shot) -> Post:
    document = {
        "ipAddress": "192.0.2.9",
        "channelID": 1,
        "dateTime": shot.time.isoformat(timespec="milliseconds"),
        "activePostCount": shot.count,
        "eventType": shot.kind,
        "eventState": shot.state,
        "deviceID": "88",
        "UUID": shot.uuid,
        "ANPR": {
            "licensePlate": shot.plate,
            "confidenceLevel": shot.confidence,
            "direction": shot.direction,
            "pilotSafeBelt": "no",
            "smoking": "yes",
        },
        "backgroundImage": base64.b64encode(PICTURE).decode(),
    }
    return Post(json.dumps(document, ensure_ascii=False).encode(), "application/json")


def hikvision_query(shot: Shot) -> Post:
    """Everything in the address, the plate in GBK."""
    fields = {
        "licensePlate": quote(shot.plate.encode("gbk")),
        "confidenceLevel": str(shot.confidence),
        "direction": shot.direction,
        "eventState": shot.state,
        "deviceID": "88",
        "UUID": shot.uuid,
        "dateTime": quote(shot.time.isoformat(timespec="milliseconds")),
    }
    return Post(b"", "", query="&".join(f"{key}={value}" for key, value in fields.items()))


def dahua(shot: Shot) -> Post:
    document = {
        "Picture": {
            "Plate": {
                "PlateNumber": shot.plate,
                "PlateColor": "Blue",
                "Confidence": int(shot.confidence),
                "IsExist": True,
                "Channel": 0,
                "UploadNum": shot.count,
                "BoundingBox": [1, 2, 3, 4],
            },
            "Vehicle": {"VehicleColor": "White", "VehicleType": "SUV", "VehicleSeries": "X5"},
            "SnapInfo": {
                "AccurateTime": shot.time.astimezone(timezone(timedelta(hours=8))).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3],
                "TimeZone": 8,
                "Direction": shot.direction,
                "DeviceID": "6J0A17DPAZ0C8A1",
                "SnapID": shot.uuid,
                "DriverFace": {"Age": 41, "SunGlass": True},
            },
            "NormalPic": {"PicName": "1.jpg", "Content": base64.b64encode(PICTURE).decode().replace("/", "\\/")},
        }
    }
    body = json.dumps(document, ensure_ascii=False).replace("\\\\/", "\\/").encode()
    return Post(body, "application/json", "/NotificationInfo/TollgateInfo", wants='"result":true')


CAMERAS: Mapping[str, Callable[[Shot], Post]] = {
    make.__name__: make
    for make in (
        *(hikvision_xml, hikvision_picture_first, hikvision_bare_boundary, hikvision_plain_xml, hikvision_json),
        *(hikvision_query, dahua),
    )
}


def dahua_alive() -> Post:
    return Post(
        b'{"Active":"keepAlive","DeviceID":"6J0A"}', "application/json", "/NotificationInfo/KeepAlive", wants='"result":true'
    )


def terminal(employee: str = "", card: str = "", minor: int = 75, serial: int = 1, at: datetime | None = None) -> Post:
    """An access terminal: the event as JSON beside the picture of a face."""
    event: dict[str, Any] = {
        "ipAddress": "192.0.2.12",
        "dateTime": (at or datetime.now(UTC)).isoformat(timespec="seconds"),
        "eventType": "AccessControllerEvent",
        "eventState": "active",
        "deviceID": "DS-K1T671",
        "AccessControllerEvent": {
            "majorEventType": 5,
            "subEventType": minor,
            "employeeNoString": employee,
            "cardNo": card,
            "name": "王小明",
            "serialNo": serial,
            "currentVerifyMode": "face" if minor == 75 else "card",
            "userType": "visitor",
            "mask": "no",
            "remoteCheck": False,
        },
    }
    body = parts(
        ('name="event_log"', "application/json", json.dumps(event, ensure_ascii=False).encode()),
        ('name="Picture"; filename="Picture.jpg"', "image/jpeg", PICTURE),
        boundary="MIME_boundary",
    )
    return Post(body, "multipart/form-data; boundary=MIME_boundary")


def fresh(plate: str = "京A12345", **changes: Any) -> Shot:
    """A shot with a number of its own."""
    return Shot(plate, uuid=str(uuid.uuid4()), **changes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--plate", default="京A12345")
    parser.add_argument("--dialect", choices=sorted(CAMERAS), default="hikvision_xml")
    given = parser.parse_args()
    post = CAMERAS[given.dialect](fresh(given.plate))
    url = given.url.rstrip("/") + post.path + (f"?{post.query}" if post.query else "")
    request = urllib.request.Request(url, post.body, {"Content-Type": post.content_type or "text/plain"}, method="POST")
    with urllib.request.urlopen(request, timeout=10) as answer:
        print(answer.status, answer.read().decode())


if __name__ == "__main__":
    main()
