# Runs on a Windows source, from memory: sent over the SSH channel, never written to its disk (but for what
# Add-Type compiles in the folder for temporary files, and removes again).
#
# PowerShell 5.1 or newer. `$Role` says what it does: `inventory`, `guard`, `snapshots` or `reader`. It starts
# with the first words of every such script (magic, size !I, JSON). Then the reader answers the frames of
# `remote_reader.py`; guard and snapshots answer lines of JSON with a size (!I) and JSON.
#
# Standard output carries nothing else: it is written as bytes, past PowerShell, which would recode it.

param([string]$Role)

$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'
$WarningPreference = 'SilentlyContinue'

# The table of p2v/transports/frames.py; a test compares the two.
$Frames = @{
    OpOpen = 1
    OpRead = 2
    OpHash = 3
    OpSync = 5
    OpQuit = 6
    OpCompose = 7
    StatusOk = 0
    StatusError = 1
    StatusReadError = 2
    CodecNone = 0
    CodecZlib = 1
    CodecZero = 2
    MaxLength = 16777216
    MaxCount = 65536
    RequestSize = 23
    PairSize = 8
    ResponseSize = 46
}
$Magic = [byte[]](0, 80, 50, 86, 49, 0)

# The C# of remote_windows_*.cs, put here before the script is sent.
$Source = @'
/*SOURCE*/
'@

# Runs in a process of its own that is no child of the session: WMI starts it, so that it outlives what ends
# the session with all below. It makes the snapshots and removes them when the pipe ends, however that came.
$Keeper = {
    $ErrorActionPreference = 'Stop'
    $made = New-Object System.Collections.ArrayList

    function Find-Shadow($Id) {
        Get-CimInstance -ClassName Win32_ShadowCopy -Filter "ID='$Id'"
    }

    function New-Shadow($Volume) {
        # No time limit here: what gave up waiting would not know which snapshot to remove.
        $said = Invoke-CimMethod -ClassName Win32_ShadowCopy -MethodName Create -Arguments @{
            Volume = $Volume
            Context = 'ClientAccessible'
        }
        if ($said.ReturnValue -ne 0) {
            return 'failed ' + $said.ReturnValue
        }
        $null = $made.Add($said.ShadowID)
        'made ' + (Find-Shadow $said.ShadowID).DeviceObject
    }

    # Those that Windows has removed before, and those that cannot be removed.
    function Remove-Shadows {
        $gone = @()
        $left = @()
        foreach ($id in @($made)) {
            try {
                $found = Find-Shadow $id
                if ($found) {
                    Remove-CimInstance -InputObject $found
                } else {
                    $gone += $id
                }
            } catch {
                $left += $id
            }
        }
        $made.Clear()
        'removed ' + ($gone -join ',') + ';' + ($left -join ',')
    }

    $both = [System.IO.Pipes.PipeDirection]::InOut
    $pipe = New-Object System.IO.Pipes.NamedPipeClientStream('.', $PipeName, $both)
    try {
        $pipe.Connect(60000)
        $reader = New-Object System.IO.StreamReader($pipe)
        $writer = New-Object System.IO.StreamWriter($pipe)
        $writer.AutoFlush = $true
        while ($null -ne ($line = $reader.ReadLine())) {
            $answer = try {
                if ($line -eq 'remove') { Remove-Shadows } else { New-Shadow $line }
            } catch {
                'error ' + ($_.Exception.Message -replace '\s+', ' ')
            }
            $writer.WriteLine($answer)
        }
    } finally {
        $null = Remove-Shadows
    }
}

$In = [Console]::OpenStandardInput()
$Out = [Console]::OpenStandardOutput()

function Send-Answer([byte[]]$Before, $Value) {
    $payload = [Text.Encoding]::UTF8.GetBytes((ConvertTo-Json -InputObject $Value -Compress -Depth 8))
    $size = [BitConverter]::GetBytes([uint32]$payload.Length)
    [Array]::Reverse($size)
    foreach ($part in $Before, $size, $payload) {
        $Out.Write($part, 0, $part.Length)
    }
    $Out.Flush()
}

# What a Windows does not have is no reason to know nothing of it.
function Get-OrElse($Default, [scriptblock]$Block) {
    try { & $Block } catch { $Default }
}

function Get-Setting([string]$Key, [string]$Name) {
    Get-OrElse $null { (Get-ItemProperty -LiteralPath "HKLM:\$Key" -Name $Name).$Name }
}

function Test-Administrator {
    $me = New-Object Security.Principal.WindowsPrincipal([Security.Principal.WindowsIdentity]::GetCurrent())
    $me.IsInRole([Security.Principal.WindowsBuiltInRole]::Administrator)
}

# The first words; `problem` says why nothing more will come.
function Get-Hello {
    $hello = @{
        administrator = [bool](Test-Administrator)
        powershell = [string]$PSVersionTable.PSVersion
        codecs = @('none', 'zlib', 'zero')
        problem = ''
    }
    $version = $PSVersionTable.PSVersion
    if ($version.Major -lt 5 -or ($version.Major -eq 5 -and $version.Minor -lt 1)) {
        $hello.problem = 'it has PowerShell ' + $hello.powershell + ', and 5.1 is needed'
    } elseif ($hello.administrator) {
        try {
            Add-Source
        } catch {
            $hello.problem = 'Add-Type does not work: ' + $_.Exception.Message
        }
    }
    $hello
}

function Add-Source {
    $table = foreach ($one in $Frames.GetEnumerator()) { "public const int $($one.Key) = $($one.Value);" }
    $whole = "namespace P2V { public static class Table { $($table -join ' ') } }`n$Source"
    # A warning of the compiler would else be an error.
    Add-Type -TypeDefinition $whole -IgnoreWarnings
}

# A volume whose pieces are not known is on no disk that can be read.
function Get-Extents([string]$Volume) {
    $told = @(Get-OrElse @() { [P2V.Native]::Extents($Volume.TrimEnd('\')) })
    for ($at = 0; $at -lt $told.Count; $at += 3) {
        @{ disk = [long]$told[$at]; start = [long]$told[$at + 1]; length = [long]$told[$at + 2] }
    }
}

function Get-Volumes {
    foreach ($one in @(Get-CimInstance -ClassName Win32_Volume -Filter 'DriveType = 3')) {
        @{
            name = [string]$one.DeviceID
            place = [string]$one.Name
            kind = [string]$one.FileSystem
            size = [long]$one.Capacity
            extents = @(Get-Extents $one.DeviceID)
        }
    }
}

function Get-VolumeNames {
    foreach ($one in @(Get-CimInstance -ClassName Win32_Volume -Filter 'DriveType = 3')) {
        $one.DeviceID.TrimEnd('\')
    }
}

# BitLocker: Win32_EncryptableVolume is not there where the feature is not.
function Get-Encrypted {
    $space = 'root\CIMV2\Security\MicrosoftVolumeEncryption'
    $known = @(Get-OrElse @() { Get-CimInstance -Namespace $space -ClassName Win32_EncryptableVolume })
    foreach ($one in $known) {
        $status = Get-OrElse $null { Invoke-CimMethod -InputObject $one -MethodName GetConversionStatus }
        $told = $status -and $status.ReturnValue -eq 0
        @{
            name = [string]$one.DeviceID
            place = [string]$one.DriveLetter
            protection = [int]$one.ProtectionStatus
            # A volume that is locked does not say.
            conversion = $(if ($told) { [int]$status.ConversionStatus } else { -1 })
        }
    }
}

# Win32_DiskDrive is on every Windows; what the Storage module adds came with 8 and 2012.
function Get-Disks {
    $storage = 'root\Microsoft\Windows\Storage'
    $known = @(Get-OrElse @() { Get-CimInstance -Namespace $storage -ClassName MSFT_Disk })
    foreach ($one in @(Get-CimInstance -ClassName Win32_DiskDrive)) {
        $more = $known | Where-Object { $_.Number -eq $one.Index } | Select-Object -First 1
        $path = "\\.\PhysicalDrive$($one.Index)"
        @{
            number = [int]$one.Index
            # Win32_DiskDrive counts whole cylinders only.
            size = [long](Get-OrElse 0 { [P2V.Native]::SizeOf($path) })
            sector_size = [int]$one.BytesPerSector
            physical_sector_size = [int]$(if ($more) { $more.PhysicalSectorSize } else { 0 })
            model = ([string]$one.Model).Trim()
            serial = ([string]$one.SerialNumber).Trim()
            unique_id = [string]$(if ($more) { $more.UniqueId })
            unique_id_format = [int]$(if ($more) { $more.UniqueIdFormat } else { 0 })
            bus = [int]$(if ($more) { $more.BusType } else { 0 })
            style = [int]$(if ($more) { $more.PartitionStyle } else { 0 })
            offline = [bool]$(if ($more) { $more.IsOffline } else { $false })
            media = [string]$one.MediaType
            pnp = [string]$one.PNPDeviceID
        }
    }
}

function Get-Cards {
    $settings = @(Get-CimInstance -ClassName Win32_NetworkAdapterConfiguration)
    foreach ($one in @(Get-CimInstance -ClassName Win32_NetworkAdapter -Filter 'PhysicalAdapter = TRUE')) {
        $own = $settings | Where-Object { $_.Index -eq $one.Index } | Select-Object -First 1
        @{
            name = [string]$one.NetConnectionID
            description = [string]$one.Name
            guid = [string]$one.GUID
            mac = [string]$one.MACAddress
            driver = [string]$one.ServiceName
            pnp = [string]$one.PNPDeviceID
            dhcp = [bool]$own.DHCPEnabled
            addresses = @($own.IPAddress | Where-Object { $_ })
            masks = @($own.IPSubnet | Where-Object { $_ })
            gateways = @($own.DefaultIPGateway | Where-Object { $_ })
            dns = @($own.DNSServerSearchOrder | Where-Object { $_ })
        }
    }
}

# The classes HDC, SCSIAdapter and Net.
function Get-Controllers {
    $classes = '6a', '7b', '72' | ForEach-Object { "ClassGuid = '{4d36e9$_-e325-11ce-bfc1-08002be10318}'" }
    foreach ($one in @(Get-CimInstance -ClassName Win32_PnPEntity -Filter ($classes -join ' OR '))) {
        @{
            name = [string]$one.Name
            'class' = [string]$one.ClassGuid
            service = [string]$one.Service
            ids = @($one.HardwareID | Where-Object { $_ })
        }
    }
}

function Get-PendingReboots {
    $current = 'HKLM:\SOFTWARE\Microsoft\Windows\CurrentVersion'
    if (Test-Path "$current\Component Based Servicing\RebootPending") { 'an update of its components' }
    if (Test-Path "$current\WindowsUpdate\Auto Update\RebootRequired") { 'Windows Update' }
    $renames = Get-Setting 'SYSTEM\CurrentControlSet\Control\Session Manager' 'PendingFileRenameOperations'
    if ($renames) { 'files that are to be replaced' }
}

# When the first process of the system began: another moment after each start, and never corrected.
function Get-BootId {
    $first = Get-CimInstance -ClassName Win32_Process -Filter "Name = 'smss.exe'" | Sort-Object CreationDate
    [string](@($first)[0].CreationDate.ToUniversalTime().Ticks)
}

function Get-Inventory {
    $system = Get-CimInstance -ClassName Win32_OperatingSystem
    $computer = Get-CimInstance -ClassName Win32_ComputerSystem
    $product = Get-CimInstance -ClassName Win32_ComputerSystemProduct
    $processor = @(Get-CimInstance -ClassName Win32_Processor)[0]
    $control = 'SYSTEM\CurrentControlSet\Control'
    @{
        hostname = [string]$system.CSName
        caption = ([string]$system.Caption).Trim()
        version = [string]$system.Version
        edition = [string](Get-Setting 'SOFTWARE\Microsoft\Windows NT\CurrentVersion' 'EditionID')
        product_type = [int]$system.ProductType
        processor = [int]$processor.Architecture
        is_64_bit = [bool][Environment]::Is64BitOperatingSystem
        machine_guid = [string](Get-Setting 'SOFTWARE\Microsoft\Cryptography' 'MachineGuid')
        boot_id = [string](Get-OrElse '' { Get-BootId })
        vendor = [string]$computer.Manufacturer
        product = [string]$computer.Model
        uuid = [string]$product.UUID
        firmware = [int](Get-OrElse 0 { [P2V.Native]::Firmware() })
        pe_firmware = [int](Get-Setting $control 'PEFirmwareType')
        cpus = [int]$computer.NumberOfLogicalProcessors
        memory = [long]$computer.TotalPhysicalMemory
        system_drive = [string]$system.SystemDrive
        system_partition = [string](Get-Setting 'SYSTEM\Setup' 'SystemPartition')
        hiberboot = (Get-Setting "$control\Session Manager\Power" 'HiberbootEnabled') -eq 1
        hibernate = (Get-Setting "$control\Power" 'HibernateEnabled') -eq 1
        pending_reboots = @(Get-PendingReboots)
        disks = @(Get-Disks)
        volumes = @(Get-Volumes)
        encrypted = @(Get-Encrypted)
        nics = @(Get-Cards)
        controllers = @(Get-OrElse @() { Get-Controllers })
    }
}

# Lines of JSON from the local side, each answered by a block that gets the question.
function Invoke-Questions([hashtable]$Known) {
    $reader = New-Object IO.StreamReader($In, (New-Object Text.UTF8Encoding($false)))
    while ($null -ne ($line = $reader.ReadLine())) {
        $answer = try {
            $question = ConvertFrom-Json -InputObject $line
            & $Known[[string]$question.do] $question
        } catch {
            @{ error = [string]$_.Exception.Message }
        }
        Send-Answer @() $answer
    }
}

function Start-Keeper {
    $name = 'p2v-' + [guid]::NewGuid().ToString('N')
    $script:Pipe = New-Object IO.Pipes.NamedPipeServerStream(
        $name, [IO.Pipes.PipeDirection]::InOut, 1, [IO.Pipes.PipeTransmissionMode]::Byte,
        [IO.Pipes.PipeOptions]::Asynchronous
    )
    $text = "`$PipeName = '$name'`n" + $Keeper.ToString()
    $encoded = [Convert]::ToBase64String([Text.Encoding]::Unicode.GetBytes($text))
    $program = [Diagnostics.Process]::GetCurrentProcess().MainModule.FileName
    $options = '-NoProfile -NonInteractive -InputFormat None -ExecutionPolicy Bypass'
    $line = "`"$program`" $options -EncodedCommand $encoded"
    $said = Invoke-CimMethod -ClassName Win32_Process -MethodName Create -Arguments @{ CommandLine = $line }
    if ($said.ReturnValue -ne 0) {
        throw "WMI does not start a process that removes the snapshots ($($said.ReturnValue))"
    }
    $waiting = $script:Pipe.BeginWaitForConnection($null, $null)
    if (-not $waiting.AsyncWaitHandle.WaitOne(60000)) {
        throw 'the process that removes the snapshots did not start within 60 s'
    }
    $script:Pipe.EndWaitForConnection($waiting)
    $script:FromKeeper = New-Object IO.StreamReader($script:Pipe)
    $script:ToKeeper = New-Object IO.StreamWriter($script:Pipe)
    $script:ToKeeper.AutoFlush = $true
}

function Get-KeeperAnswer([string]$Line) {
    $script:ToKeeper.WriteLine($Line)
    $said = $script:FromKeeper.ReadLine()
    if ($null -eq $said) { throw 'the process that removes the snapshots has ended' }
    $said
}

function New-Shadow($Question) {
    if (-not $script:Pipe) { Start-Keeper }
    $kind, $rest = (Get-KeeperAnswer ([string]$Question.volume)) -split ' ', 2
    switch ($kind) {
        'made' { @{ device = [string]$rest; code = 0 } }
        'failed' { @{ device = ''; code = [int]$rest } }
        default { throw $rest }
    }
}

function Remove-Shadows {
    if (-not $script:Pipe) { throw 'there are no snapshots' }
    $kind, $rest = (Get-KeeperAnswer 'remove') -split ' ', 2
    if ($kind -ne 'removed') { throw $rest }
    $gone, $left = $rest -split ';', 2
    $script:Pipe.Dispose()
    $script:Pipe = $null
    @{ gone = @($gone -split ',' | Where-Object { $_ }); left = @($left -split ',' | Where-Object { $_ }) }
}

$hello = Get-Hello
$able = $hello.administrator -and -not $hello.problem
if ($able -and $Role -eq 'inventory') {
    try {
        $hello += Get-Inventory
    } catch {
        $hello.problem = 'its inventory cannot be read: ' + $_.Exception.Message
    }
}
Send-Answer $Magic $hello
if ($able) {
    switch ($Role) {
        'reader' {
            $names = [string[]]@(Get-VolumeNames)
            [P2V.Server]::new($In, $Out, $names).Serve()
        }
        'guard' {
            Invoke-Questions @{
                usage = { @{ volumes = @(Get-Volumes) } }
                flush = { [P2V.Server]::Flush([string[]]@(Get-VolumeNames)); @{} }
            }
        }
        'snapshots' {
            $script:Pipe = $null
            try {
                Invoke-Questions @{ create = { New-Shadow $args[0] }; remove = { Remove-Shadows } }
            } finally {
                # What it made, the keeper removes when the pipe ends.
                if ($script:Pipe) { $script:Pipe.Dispose() }
            }
        }
    }
}
