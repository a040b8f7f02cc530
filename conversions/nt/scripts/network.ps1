# By p2v: gives network settings back to the adapters they were for. Runs at the first boot, then goes.
$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'
$settings = @(
@ENTRIES@
)

function Find-Adapter([string] $Mac) {
    for ($try = 0; $try -lt @TRIES@; $try++) {
        $found = @(Get-NetAdapter -ErrorAction SilentlyContinue | Where-Object {
            (($_.MacAddress -replace '[-:]', '') -eq $Mac) -or (($_.PermanentAddress -replace '[-:]', '') -eq $Mac)
        } | Sort-Object { -not $_.HardwareInterface })
        if ($found.Count -gt 0) { return $found[0] }
        Start-Sleep -Seconds @PAUSE@
    }
    throw "no adapter has the address $Mac"
}

function Remove-Elsewhere($Entry, $Adapter) {
    foreach ($address in $Entry.Addresses) {
        $ip = ($address -split '/')[0]
        foreach ($store in 'ActiveStore', 'PersistentStore') {
            Get-NetIPAddress -IPAddress $ip -PolicyStore $store -ErrorAction SilentlyContinue |
                Where-Object { $_.InterfaceIndex -ne $Adapter.ifIndex } |
                Remove-NetIPAddress -Confirm:$false -ErrorAction SilentlyContinue
        }
    }
    foreach ($old in $Entry.Old) {
        $key = "HKLM:\SYSTEM\CurrentControlSet\Services\Tcpip\Parameters\Interfaces\$old"
        if (($old -eq $Adapter.InterfaceGuid) -or -not (Test-Path -LiteralPath $key)) { continue }
        Set-ItemProperty -LiteralPath $key -Name EnableDHCP -Value 1
        foreach ($name in 'IPAddress', 'SubnetMask', 'DefaultGateway', 'NameServer') {
            Remove-ItemProperty -LiteralPath $key -Name $name -ErrorAction SilentlyContinue
        }
    }
}

function Set-Addresses($Entry, $Index) {
    $wanted = @($Entry.Addresses | ForEach-Object { ($_ -split '/')[0] })
    $found = @(Get-NetIPAddress -InterfaceIndex $Index -AddressFamily IPv4 -ErrorAction SilentlyContinue)
    # What DHCP gave goes with it, even where it gave the right address.
    $have = @($found | Where-Object { $_.PrefixOrigin -eq 'Manual' } | ForEach-Object { $_.IPAddress })
    Set-NetIPInterface -InterfaceIndex $Index -AddressFamily IPv4 -Dhcp Disabled
    $found | Where-Object { ($_.PrefixOrigin -ne 'Manual') -or ($wanted -notcontains $_.IPAddress) } |
        Remove-NetIPAddress -Confirm:$false -ErrorAction SilentlyContinue
    foreach ($address in $Entry.Addresses) {
        $ip, $prefix = $address -split '/'
        if ($have -notcontains $ip) {
            $null = New-NetIPAddress -InterfaceIndex $Index -IPAddress $ip -PrefixLength ([byte] $prefix)
        }
    }
    Get-NetRoute -InterfaceIndex $Index -DestinationPrefix '0.0.0.0/0' -ErrorAction SilentlyContinue |
        Remove-NetRoute -Confirm:$false -ErrorAction SilentlyContinue
    foreach ($gateway in $Entry.Gateways) {
        $null = New-NetRoute -InterfaceIndex $Index -DestinationPrefix '0.0.0.0/0' -NextHop $gateway
    }
}

$failed = 0
foreach ($entry in $settings) {
    try {
        $adapter = Find-Adapter $entry.Mac
        $index = $adapter.ifIndex
        Remove-Elsewhere $entry $adapter
        if ($entry.Addresses.Count -gt 0) { Set-Addresses $entry $index }
        if ($entry.Dns.Count -gt 0) {
            Set-DnsClientServerAddress -InterfaceIndex $index -ServerAddresses $entry.Dns
        }
        if ($entry.Suffix) { Set-DnsClient -InterfaceIndex $index -ConnectionSpecificSuffix $entry.Suffix }
        Write-Output "p2v: the adapter $($entry.Mac) has its settings: $($entry.Addresses)"
    } catch {
        $failed++
        Write-Output "p2v: the adapter $($entry.Mac) did not get its settings: $_"
    }
}
exit $failed
