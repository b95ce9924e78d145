"""Synthetic technical reports of a fictional utility, each with its reference summary.

A report has a few key facts, one sentence each. They are at random places in a plausible narrative with
similar details: other dates, people, equipment and amounts. The summary contains every key fact verbatim.
The text is composed from fixed templates and word lists. It is for training and demonstrating a summarizer,
and does not measure quality on real prose.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from string import Formatter
from typing import TypeVar

KINDS = ("incident", "maintenance", "inspection", "audit")
LABELS = ("low", "moderate", "high", "critical")

T = TypeVar("T")


@dataclass(frozen=True)
class Report:
    """One report. Every value of `facts` occurs exactly once in `text` and once in `summary`."""

    kind: str
    text: str
    summary: str
    label: str
    facts: dict[str, str]
    questions: tuple[tuple[str, str], ...]


def generate_report(seed: int, words: int, kind: str | None = None) -> Report:
    """The report of `seed`, with about `words` words, of the seed's kind or of this one.

    Kind, facts, summary and label depend on the seed and the kind alone. All fact sentences are always
    included, so a report has at least about 50 words.
    """
    rng = random.Random(seed)
    drawn = rng.choice(KINDS)
    kind = kind or drawn
    facts = draw_facts(rng, FACTS_OF_KIND[kind])
    label = rng.choice(LABELS)
    key_sentences = [rng.choice(FACT_SENTENCES[name]).format(value) for name, value in facts.items()]
    key_sentences.append(rng.choice(SEVERITY_SENTENCES).format(rng.choice(SEVERITY_WORDS[label])))
    title = f"{kind.capitalize()} report, reference {rng.randint(1000, 9999)}-{rng.choice('ABCDEFGH')}."

    missing = words - _word_count(title) - sum(map(_word_count, key_sentences))
    narrative = draw_narrative(rng, missing, frozenset(value.lower() for value in facts.values()))
    body = scatter(rng, key_sentences, narrative)
    return Report(
        kind=kind,
        text="\n\n".join([title, *blocks(rng, body)]),
        summary=SUMMARIES[kind].format_map(facts),
        label=label,
        facts=facts,
        questions=tuple((QUESTIONS[name], value) for name, value in facts.items()),
    )


def _word_count(text: str) -> int:
    return len(text.split())


def draw_facts(rng: random.Random, names: tuple[str, ...]) -> dict[str, str]:
    """Draw one value for each name. No value contains another one."""
    while True:
        facts = {name: _draw(rng, FACT_SLOTS[name]) for name in names}
        values = facts.values()
        if all(sum(value in other for other in values) == 1 for value in values):
            return facts


def draw_narrative(rng: random.Random, words: int, taken: frozenset[str]) -> list[str]:
    """Draw narrative sentences with about `words` words in total. None contains a taken value."""
    tolerance = 6  # half a sentence, so the total is right on average
    sentences: list[str] = []
    templates = _deck(rng, NARRATIVE)
    while words > tolerance:
        template = next(templates)
        sentence = _fill(rng, template)
        while _mentions(sentence, taken):
            sentence = _fill(rng, template)
        sentences.append(sentence)
        words -= _word_count(sentence)
    return sentences


def _mentions(sentence: str, values: frozenset[str]) -> bool:
    lowered = sentence.lower()
    return any(value in lowered for value in values)


def scatter(rng: random.Random, key_sentences: list[str], narrative: list[str]) -> list[str]:
    """Insert the key sentences into the narrative, in random order at uniformly random positions."""
    total = len(key_sentences) + len(narrative)
    positions = set(rng.sample(range(total), len(key_sentences)))
    keys = iter(rng.sample(key_sentences, len(key_sentences)))
    others = iter(narrative)
    return [next(keys if position in positions else others) for position in range(total)]


def blocks(rng: random.Random, sentences: list[str]) -> Iterator[str]:
    """Yield paragraphs of three to seven sentences. Some of them follow a heading."""
    headings = _deck(rng, HEADINGS)
    start = 0
    while start < len(sentences):
        left = len(sentences) - start
        size = min(rng.randint(3, 7), left)
        if 0 < left - size < 3:
            size = left if left <= 7 else left - 3
        if rng.random() < 0.2:
            yield next(headings)
        yield " ".join(sentences[start : start + size])
        start += size


def _deck(rng: random.Random, cards: tuple[T, ...]) -> Iterator[T]:
    """Yield the cards in random order, and shuffle them again after each round."""
    while True:
        yield from rng.sample(cards, len(cards))


# A slot is a list of phrases, or a function that draws one.
Slot = tuple[str, ...] | Callable[[random.Random], str]
# A template is a sequence of (literal text, name of the following slot or None).
Template = tuple[tuple[str, str | None], ...]


def _draw(rng: random.Random, slot: Slot) -> str:
    return slot(rng) if callable(slot) else slot[int(rng.random() * len(slot))]


def _fill(rng: random.Random, template: Template) -> str:
    """Fill every slot of the template. No phrase occurs twice."""
    text = ""
    for literal, name in template:
        text += literal
        if name:
            phrase = _draw(rng, SLOTS[name])
            while phrase in text:
                phrase = _draw(rng, SLOTS[name])
            text += phrase
    return text[0].upper() + text[1:]


def _parse(line: str) -> Template:
    return tuple((literal, name) for literal, name, _, _ in Formatter().parse(line))


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.strip().splitlines())


def _phrases(text: str) -> tuple[str, ...]:
    return tuple(" ".join(phrase.split()) for phrase in text.split(";"))


# Values of key facts and of similar details.

MONTHS = _phrases(
    "January; February; March; April; May; June; July; August; September; October; November; December"
)

ASSET_TYPES = _phrases("""
    pump; valve; motor; turbine; boiler; transformer; generator; compressor; breaker; conveyor;
    filter; tank; crane; switch; relay; heater; fan; gearbox; inverter; hoist; signal; mixer;
    locomotive; digester
""")

SITES = _phrases("""
    Harwick; Saltmere Quay; Dunholt; Ravensford; Millbrae; Otterby; Kestrel Point; Lowfell; Ashgarth;
    Brindle Moor; Corvane; Stonebeck; Elmstead; Fairhaven Dock; Greyling; Hollin Bridge; Inverlee;
    Juniper Flats; Kirkbank; Langmoor; Marrowdale; Netherpool; Oakhanger; Penwith Lock; Quarrington;
    Redscar; Silverdean; Thornaby Cross; Ulverham; Velden Heath; Westrick; Yarrowby; Birchover;
    Cauldmoss; Drayford; Eastling Weir; Foxcombe; Garsdale; Highmere; Ivelchester; Copperhill;
    Larkfield; Mossgate; Northwold; Orchard Basin; Pellham; Rookhope; Sandwell Spur; Tarnside;
    Underhay; Wrenbury; Blackwater Halt; Coldstream; Deepden; Emberley; Farrowgate; Glenmarsh;
    Heronsgill; Tidewell; Wychford
""")

SURNAMES = _phrases("""
    Okafor; Lindqvist; Tanaka; Moreau; Castellan; Whitlock; Abara; Novak; Petrov; Dahl; Ferreira;
    Gallagher; Hassan; Ibsen; Jankowski; Kowalski; Larsen; Mbeki; Nakamura; Olsen; Pereira; Quinn;
    Rossi; Sorensen; Tremblay; Usman; Varga; Weber; Xiang; Yilmaz; Zielinski; Adeyemi; Bergstrom;
    Cardoso; Dimitrov; Eriksen; Fontaine; Guerrero; Halloran; Ishikawa; Jensen; Kapoor; Lombardi;
    Mahoney; Nilsson; Ortega; Pawlak; Rahman; Santos; Takeda; Underwood; Vasquez; Wallace; Yamada;
    Zhang; Ashby; Barlow; Crowther; Delaney; Everett; Fairfax; Goddard; Hawthorne; Ingram; Jarvis;
    Kendrick; Lockwood; Merriman; Norwood; Oakley; Pemberton; Radcliffe; Sheridan; Thackeray;
    Vaughan; Wainwright; Yardley; Atkins; Bennett; Carver; Draper; Ellison; Fletcher; Granger;
    Hobbs; Iverson; Joyner; Keating; Lambert; Mercer; Nugent; Osborne; Prescott; Ramsey; Stanton;
    Turner; Ursel; Vickers; Winslow; Zeller
""")

ACCENTED_SURNAMES = _phrases("Lefébure; Andrézieux; Bérard; Ménard; Gérin; Hébert; Sévigny; Thévenin")

CAUSES = _phrases("""
    a cracked impeller; a seized bearing; a blocked strainer; a loose terminal; a blown fuse;
    a stuck float switch; a broken drive belt; a leaking gland; a corroded flange; a faulty sensor;
    a worn coupling; a bent spindle; a failed gasket; a short circuit; a ruptured diaphragm;
    a frozen drain line; a lightning strike; a fallen branch; a wiring error; a software fault;
    a clogged nozzle; a damaged cable joint; a jammed gate; a slipped clutch; a burst hose;
    an air lock; an overheated winding; an open bypass; an oil leak; an expired battery;
    an incorrect setting; an unbalanced rotor; water in the fuel; sand in the bearing;
    rust in the piping; ice on the rails; metal fatigue; a voltage surge; a missing split pin;
    a perished seal ring
""")

FINDINGS = _phrases("""
    uneven brake wear; missing safety labels; unsigned work permits; loose anchor bolts;
    poor cable routing; faded warning signs; expired fire extinguishers; incomplete training records;
    corrosion under insulation; hairline weld cracks; unlocked isolation points; outdated drawings;
    excess shaft vibration; low coolant level; blocked escape routes; worn guide rollers;
    weak earth bonding; unlabelled spare keys; damaged lagging; overdue calibration;
    duplicate invoice numbers; slow alarm response; standing water; cracked insulators;
    frayed lifting slings; untested backup power; unclear shift handover; rotten sleepers;
    peeling tank lining; inadequate ventilation; misaligned pulleys; exposed conductors;
    contaminated grease; sticking relief valves; lost maintenance cards; shallow foundations;
    soft brake hoses; noisy gear teeth; unsafe ladder access; weak password rules
""")

ACTIONS = _phrases("""
    replaced the shaft seal; tightened the flange bolts; flushed the cooling circuit;
    rewired the control panel; cleaned the intake screen; reset the protection relay;
    renewed the drive belt; welded the cracked bracket; aligned the coupling; drained the sump;
    installed a new sensor; updated the firmware; repacked the gland; calibrated the flow meter;
    swapped the circuit board; greased the main bearings; patched the tank lining;
    fitted a stronger bracket; balanced the rotor; rebuilt the gear train; insulated the drain line;
    changed the oil filter; retrained the operators; relabelled the switchboard; sealed the cable duct;
    rewrote the work instruction; moved the limit switch; repainted the steelwork;
    exchanged the battery bank; cleared the blocked culvert; reinforced the pipe supports;
    adjusted the brake linkage; restored the earth connection; removed the bypass line;
    polished the slip rings; hardened the access rules; rinsed the spray nozzles;
    lifted the sunken track; trimmed the overhanging trees; closed the open permits
""")


def _asset(rng: random.Random) -> str:
    name = _draw(rng, ASSET_TYPES)
    return f"{name} {name[0].upper()}-{rng.randint(100, 999)}"


def _date(rng: random.Random) -> str:
    return f"{rng.randint(1, 28)} {_draw(rng, MONTHS)}"


def _initial(rng: random.Random) -> str:
    return rng.choice("ABCDEFGHIJKLMNOPRSTUVWYZ") + "."


def _person(rng: random.Random) -> str:
    return f"{_initial(rng)} {_draw(rng, SURNAMES)}"


def _bystander(rng: random.Random) -> str:
    return f"{_initial(rng)} {_draw(rng, ACCENTED_SURNAMES)}" if rng.random() < 0.1 else _person(rng)


def _hours(rng: random.Random) -> str:
    return f"{rng.randint(10, 480)} hours"


def _dollars(rng: random.Random) -> str:
    return f"{rng.randint(10, 999)}0 dollars"


def _number(rng: random.Random) -> str:
    return str(rng.randint(12, 640))


def _temperature(rng: random.Random) -> str:
    return f"{rng.randint(4, 36)} °C"


def _microns(rng: random.Random) -> str:
    return f"{rng.randint(5, 90)} µm"


FACT_SLOTS: dict[str, Slot] = {
    "asset": _asset,
    "site": SITES,
    "date": _date,
    "cause": CAUSES,
    "finding": FINDINGS,
    "action": ACTIONS,
    "person": _person,
    "downtime": _hours,
    "cost": _dollars,
    "deadline": _date,
}

# The key facts of a report.

FACTS_OF_KIND = {
    "incident": ("date", "asset", "site", "cause", "downtime", "action", "person"),
    "maintenance": ("asset", "site", "date", "action", "cost", "person"),
    "inspection": ("person", "asset", "site", "date", "finding", "deadline"),
    "audit": ("site", "date", "finding", "action", "cost", "person", "deadline"),
}

SUMMARIES = {
    "incident": (
        "On {date}, {asset} at {site} failed and was taken out of service. "
        "The root cause was {cause}, and the downtime was {downtime}. "
        "In response the crew {action}. The responsible engineer was {person}."
    ),
    "maintenance": (
        "Planned maintenance was carried out on {asset} at {site}. "
        "The work took place on {date}, when the crew {action}. "
        "The total cost was {cost}. The responsible engineer was {person}."
    ),
    "inspection": (
        "An inspection led by {person} covered {asset} at {site}. "
        "It took place on {date}. The principal finding was {finding}. "
        "The deadline for follow-up is {deadline}."
    ),
    "audit": (
        "The audit of {site} on {date} had {finding} as its principal finding. "
        "In response the crew {action}, at a total cost of {cost}. "
        "The responsible engineer was {person}. The deadline for follow-up is {deadline}."
    ),
}

QUESTIONS = {
    "asset": "Which unit does the report concern?",
    "site": "At which site did it take place?",
    "date": "What is the date of record?",
    "cause": "What was the root cause?",
    "finding": "What was the principal finding?",
    "action": "What did the crew do in response?",
    "person": "Who was the responsible engineer?",
    "downtime": "How long was the downtime?",
    "cost": "What was the total cost?",
    "deadline": "What is the deadline for follow-up?",
}

FACT_SENTENCES = {
    "asset": _lines("""
        The unit concerned is {}.
        This report concerns {} and its auxiliaries.
        The subject of this report is {}.
        The equipment under review was {}.
        Unless noted otherwise, the unit under review is {}.
    """),
    "site": _lines("""
        The site concerned is {}.
        Everything reported here took place at {}.
        The site of record is {}.
        The location given in the record is {}.
        All of this work took place at the site of {}.
    """),
    "date": _lines("""
        The date of record is {}.
        The log gives {} as the date of record.
        The day in question was {}.
        The matter reported here is dated {}.
        For the register, the date of record was {}.
    """),
    "cause": _lines("""
        The event was traced to {}.
        Investigators concluded that {} started the sequence.
        The root cause was {}.
        Laboratory tests confirmed {} as the root cause.
        In the end the failure was put down to {}.
    """),
    "finding": _lines("""
        The principal finding was {}.
        The examiners listed {} as their principal finding.
        The finding given first rank was {}.
        Above all else, the examiners found {}.
        The formal finding of the examiners reads: {}.
    """),
    "action": _lines("""
        In response, the crew {}.
        As a corrective step, the fitters {}.
        To put matters right, the crew {}.
        The corrective work began at once, and technicians {}.
        By way of remedy, the fitters {}.
    """),
    "person": _lines("""
        The responsible engineer was {}.
        Responsibility for this report rests with {}.
        The report was led and approved by {}.
        The engineer in charge was {}.
        Full responsibility was assigned to {} from the start.
    """),
    "downtime": _lines("""
        The total downtime was {}.
        The unit stayed out of service for {}.
        Downtime was counted as {} in the register.
        It took {} to restore service.
        Service was lost for {} altogether.
    """),
    "cost": _lines("""
        The total cost came to {}.
        The final bill amounted to {}.
        The accounts office booked a total cost of {}.
        All costs together reached {}.
        The final cost was settled at {}.
    """),
    "deadline": _lines("""
        The deadline for follow-up is {}.
        All open points must be closed by {}.
        Follow-up is due no later than {}.
        The board set a deadline of {}.
        Follow-up must be complete before the deadline, {}.
    """),
}

SEVERITY_WORDS = {
    "low": _phrases("minor; slight; negligible"),
    "moderate": _phrases("moderate; medium; tolerable"),
    "high": _phrases("severe; serious; major"),
    "critical": _phrases("critical; extreme; catastrophic"),
}

SEVERITY_SENTENCES = _lines("""
    The review board rated the consequence as {}.
    The severity was graded as {}.
    On the severity scale the case was marked {}.
    The risk panel judged the consequence to be {}.
""")

# The narrative.

HEADINGS = _phrases("""
    Background; Observations; Chronology; Site conditions; Measurements; Personnel; Discussion;
    Materials; General remarks; Method; History; Further notes
""")

SLOTS: dict[str, Slot] = {
    "unit": _asset,
    "place": SITES,
    "day": _date,
    "name": _bystander,
    "hours": _hours,
    "dollars": _dollars,
    "number": _number,
    "temp": _temperature,
    "microns": _microns,
    "old_cause": CAUSES,
    "old_finding": FINDINGS,
    "old_action": ACTIONS,
    "weather": _phrases("""
        light rain fell through the night; a cold wind blew from the estuary; thick fog covered the
        valley; the sky was clear and still; snow lay on the embankment; the afternoon turned warm and
        humid; a thunderstorm passed to the south; frost had formed on the handrails; drizzle came and
        went; the ground was soft after a wet week; bright sunshine dried the yard; hail was reported
        along the coast; the river ran high but steady; a dry spell had lasted for weeks; gusts shook
        the scaffolding; low cloud hid the masts; the morning was mild and grey; mist rose from the
        settling ponds
    """),
    "crew": _phrases("""
        the night crew; the day shift; the control room; the duty supervisor; two apprentices; the
        drainage gang; the electrical section; the stores clerk; a hired contractor; the survey party;
        the signal technicians; the dispatch desk; the laboratory staff; the crane driver; a trainee
        operator; the safety officer; the metering squad; the track walkers; the weekend standby team
    """),
    "did": _phrases("""
        swept the gallery floor; walked the length of the fence; read every gauge twice; copied the
        figures into a notebook; stacked the empty pallets; opened the louvres; compared the drawings
        with the layout; moved the barriers aside; photographed the nameplates; counted the ladders;
        waited for a second radio; topped up the lubricant; put fresh tape around the opening; shared
        a pot of coffee; coiled the spare hoses; rang the regional desk; emptied the waste bins;
        looked over the emergency lights; sorted the hand tools; wiped down the inspection windows
    """),
    "doing": _phrases("""
        checking oil levels; unloading timber; listening to the pumps; tracing old cables; painting
        the kerb; measuring the clearances; marking the trench; tidying the workshop; testing the
        telephones; sampling the water; charging the lamps; numbering the cabinets; mowing the verge;
        oiling the hinges; filling sandbags; updating the notice board; scanning paper archives
    """),
    "procedure": _phrases("""
        the lockout procedure; the permit system; the standard start-up list; the two-person rule; the
        lifting plan; the confined space routine; the hot work form; the radio protocol; the shutdown
        sequence; the traffic plan; the key exchange routine; the chemical handling guide; the
        evacuation drill; the storm plan; the isolation certificate; the visitor policy
    """),
    "parts": _phrases("""
        gaskets; filter cartridges; copper lugs; hex nuts; rubber sleeves; ceramic discs; spare fuses;
        cable ties; steel shims; pipe clamps; grease nipples; brake pads; lamp holders; sealing rings;
        terminal blocks; wooden wedges; carbon brushes; plastic caps
    """),
    "tool": _phrases("""
        a torque wrench; an infrared camera; a feeler gauge; a dial indicator; a portable lamp; a chain
        block; a borescope; an insulated pole; a laser level; a clamp meter; a hydraulic jack; a
        stethoscope; an ultrasonic probe; a spirit level; a pressure calibrator; a wire brush
    """),
    "room": _phrases("""
        the valve chamber; the switch room; the pump hall; the upper gallery; the battery room; the
        loading bay; the chlorine store; the cable basement; the workshop; the relay hut; the screen
        house; the machine shed; the archive; the canteen; the spillway tunnel; the lamp room; the
        boiler yard; the platform office
    """),
    "document": _phrases("""
        the shift log; the binder on the shelf; the asset catalogue; the handover sheet; the old
        ledger; the vendor manual; the wall chart; the site diary; the spare parts list; the weekly
        bulletin; the telemetry archive; the logbook of the gatehouse; the stock register; the map of
        underground services; the duty roster
    """),
    "manner": _phrases("""
        without delay; as usual; with some care; in good order; step by step; under supervision; at a
        relaxed pace; by hand; in pairs; according to habit; with the doors open; in daylight; from
        memory; with borrowed equipment; in silence; over several rounds
    """),
    "topic": _phrases("""
        hearing protection; slippery walkways; manual lifting; electrical arcs; heat stress; lone
        working; eye wash stations; dust masks; reversing trucks; falling objects; chemical splashes;
        fatigue on long shifts; first aid boxes; pinch points; gas detectors; ladder footing
    """),
    "time": _phrases("""
        shortly after dawn; before noon; during the lunch break; late in the evening; around midnight;
        on the following morning; at the change of shift; towards the weekend; in the early afternoon;
        after sunset; between two rounds; soon afterwards; within the same week; later that day; a
        little past breakfast; just before dusk
    """),
    "era": _phrases("""
        in the early years of the utility; several decades ago; before the merger; when coal was still
        burned; during the great flood; under the former management; after the second extension; in the
        days of steam; when the village was small; before the railway came; at the turn of the century;
        during the drought; in a previous budget cycle; long before remote control; when the dam was
        raised
    """),
    "feature": _phrases("""
        a brick chimney; a row of poplars; a narrow footbridge; a gravel car park; an iron gate; a
        disused siding; a concrete reservoir; a stone wall; an orchard; a steep embankment; a lattice
        tower; a duck pond; an allotment garden; a weather station; a covered walkway; a timber jetty
    """),
    "public": _phrases("""
        local residents; the parish council; nearby farmers; the harbour office; school classes;
        commuters; the fishing club; several shopkeepers; the fire brigade; the hospital; the county
        engineer; two journalists; the bus company; the tenants association; a group of anglers
    """),
    "state": _phrases("""
        dry; tidy; well lit; quiet; crowded; dusty; damp; orderly; half empty; freshly painted; cool;
        accessible; draughty; warm; clean; cluttered; locked; spotless
    """),
    "reading": _phrases("""
        the inlet pressure; the bearing temperature; the oil level; the line voltage; the flow rate;
        the tank level; the exhaust draught; the chlorine residual; the axle load; the shaft speed; the
        phase current; the pond depth; the air humidity; the noise level; the fuel stock; the steam
        pressure
    """),
    "trend": _phrases("""
        stayed within the usual band; drifted slightly upward; fell back after a while; showed no clear
        pattern; followed the daily rhythm; remained steady; oscillated a little; rose with demand;
        settled at its normal value; matched the forecast; agreed with the local gauge; dipped once and
        recovered; was hard to read; lagged behind the trend of last year; looked plausible throughout
    """),
    "reason": _phrases("""
        because the road was narrow; since the lift was occupied; as the budget allowed; because the
        key was elsewhere; since daylight was short; as agreed with the neighbours; because a lorry
        blocked the entrance; since the printer had run out of paper; as the manual suggests; because
        the phones were busy; since nobody objected; as in other seasons; because the floor was wet;
        since the stores had closed; as the rota required
    """),
    "opinion": _phrases("""
        the handover had been orderly; the drawings deserve a fresh look; the lighting could be better;
        the stairs are too steep; the new radios work well; the paint will last; the layout is
        confusing for newcomers; the gates close too slowly; the spare stock is ample; the roster is
        fair; the fence keeps foxes out; the signs are easy to follow; the workshop needs a second
        bench; the telemetry is trustworthy; the canteen closes too early; the archive should be scanned
    """),
    "vehicle": _phrases("""
        a flatbed truck; a rail trolley; a small barge; a white van; a tracked excavator; a mobile
        crane; a tanker; a service wagon; a forklift; a bicycle; a works train; a trailer; a pickup; a
        tractor; a rescue boat
    """),
    "office": _phrases("""
        the regional office; the training centre; the purchasing department; the insurance desk; the
        planning section; the environmental unit; the legal adviser; the customer service team; the
        archive group; the fleet office; the standards committee; the union delegate; the works
        council; the grid operator; the river authority
    """),
    "paper": _phrases("""
        a brief note; a revised sketch; a list of contacts; a photograph; a copy of the timetable; a
        letter of thanks; a draft agenda; an older certificate; a set of minutes; a delivery slip; a
        coloured diagram; an index of drawings; a packing list; a data sheet; a short questionnaire
    """),
    "detail": _phrases("""
        the colour of the pipework; the width of the doors; the noise at night; the choice of gloves;
        the position of the lamps; the names of the streams; the order of the valves; the shape of the
        roof; the parking rules; the spelling of labels; the age of the benches; the height of the
        railing; the route of the tour; the smell near the drains; the wording of the poster
    """),
}

NARRATIVE = tuple(
    map(
        _parse,
        _lines("""
    {time}, {weather}.
    According to the gatehouse, {weather} while {crew} {did}.
    {weather}, and the outdoor thermometer showed {temp}.
    {crew} {did} {manner}.
    {time}, {crew} {did}.
    {crew} spent part of the shift {doing}.
    {crew} {did} {time}, {reason}.
    While {crew} went on {doing}, {reading} {trend}.
    {reading} {trend}, as did {reading}.
    During the round {reading} {trend}.
    The display in {room} was checked {time}, and {reading} {trend}.
    {room} was found {state} and {state}.
    {room} was {state}, {reason}.
    Access to {room} is past {feature} and {feature}.
    Visitors notice {feature} beside the entrance to {room}.
    From {room} one can see {feature} and, further off, {feature}.
    {procedure} was explained again {time}.
    {crew} followed {procedure} {manner}.
    A copy of {procedure} hangs in {room}.
    {procedure} was written {era} and has been revised since.
    The morning talk dealt with {topic} and {topic}.
    A poster on {topic} was put up in {room}.
    {crew} asked for more practice on {topic}.
    {crew} remarked that {opinion}.
    It was said in passing that {opinion}.
    {public} had been told about the noise {time}.
    {public} asked about {detail}, and {office} replied with {paper}.
    No complaint was received from {public} – nor from {public}.
    {office} sent {paper} {time}.
    {office} would like to hear more about {detail}.
    A meeting with {office} dealt with {detail}.
    {paper} was placed in {document}.
    {document} was kept in {room} {era}.
    {document} contains {paper} and a page on {detail}.
    {era}, {room} served as a store for {parts}.
    {era}, the grounds were known for {feature}.
    {vehicle} brought {parts} to {room}.
    {vehicle} was parked near {feature}, {reason}.
    {crew} used {tool} while {doing}.
    {tool} had to be borrowed from {office}.
    {tool} was left in {room} and returned {time}.
    The cabinet in {room} holds {tool}, {tool} and a box of {parts}.
    {parts} were sorted {manner} before {crew} {did}.
    A sample taken in {room} held particles of about {microns}.
    The play measured with {tool} was {microns}, which the manual allows.
    The air in {room} was close to {temp} and felt {state}.
    The previous visit on {day} dealt only with {detail}.
    A newsletter of {day} mentioned {topic}.
    {document} was last rebound on {day}.
    On {day} a school group had toured {room}.
    The next fire drill is pencilled in around {day}, weather permitting.
    {name} signed the visitor book {time}.
    {name} from {office} joined the walk and took notes on {detail}.
    {name} lent the team {tool}.
    A retired fitter, {name}, recalled how things were done {era}.
    {name} apologised for missing the meeting on {topic}.
    The canteen was run by {name} {era}.
    {unit} was running normally and needed no attention.
    {unit} stood idle nearby, {reason}.
    {crew} walked past {unit} on the way to {room}.
    {parts} had once been ordered for {unit}.
    {vehicle} on its way from {place} was held up, {reason}.
    A sister station near {place} uses {procedure} as well.
    {crew} had been on loan to {place} until {day}.
    Colleagues in {place} believe that {opinion}.
    A stock of {number} {parts} was counted in {room}.
    {document} lists {number} {parts} and {number} {parts}.
    The training budget of {dollars} had been spent on {topic}.
    {parts} worth {dollars} were lying in {room}.
    A donation of {dollars} from {public} paid for {feature}.
    The lamps in {room} are rated for {hours} of use.
    {crew} had collected {hours} of leave between them.
    The tutorial on {topic} lasts {hours} in its long form.
    In another year, people at {place} had blamed {old_cause} for a delay.
    A textbook example in {document} describes {old_cause}.
    {name} once wrote an essay about {old_finding}.
    A slide on {old_finding} was shown during the talk on {topic}.
    On an unrelated visit, a contractor {old_action} for {public}.
    Years before, {name} had {old_action} on {unit}.
    """),
    )
)
